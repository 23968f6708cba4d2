"""An image and a quick call, for the tests of a public checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from bdkit.models.blip_diffusion import BlipDiffusion

PROMPTS = Path(__file__).parents[3] / "dreambench" / "data" / "prompts.csv"
SMALL: dict[str, Any] = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent"}


def photo(seed: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)


def latents(model: BlipDiffusion, *args: Any, **extra: Any) -> Tensor:
    result: Tensor = model(*args, **(SMALL | extra))
    return result
