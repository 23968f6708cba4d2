"""What tests and benchmarks build models from: tiny checkpoints, seeded weights, full-size shapes."""
