"""Two-stage pre-training of BLIP-Diffusion, and what comes before it at mini size (Sec. 3.1, 3.2)."""
