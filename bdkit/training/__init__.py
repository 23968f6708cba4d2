"""The training loop, and everything that is trained in it."""
