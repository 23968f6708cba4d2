"""Checkpoints in and out: bdkit's own format, the public diffusers format and LAVIS's."""
