"""The floor of the library: errors, files, images, flags, the environment, seeds; imports nothing of ours."""
