"""Layouts of checkpoints that others wrote: the public diffusers folder and LAVIS's, in and out."""
