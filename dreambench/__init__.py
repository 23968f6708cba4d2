"""What is measured: DreamBench's subjects, prompts and photos, and the suites made of them."""
