"""One file a format: what its files and keys are called, read and written."""
