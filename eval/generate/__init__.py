"""Methods x suite -> images on disk."""
