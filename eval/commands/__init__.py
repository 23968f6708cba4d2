"""The commands of the benchmark, one a file."""
