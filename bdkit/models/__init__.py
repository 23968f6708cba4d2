"""The model: assembly, encoders, tokenizers and checkpoints."""
