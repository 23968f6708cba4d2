"""What each inversion makes of images that the model never saw, against the autoencoder's own limit.

python -m eval.mini.inversions --out results/editing/inversions.csv

The images are the real sources of edit-mini. Finished images are kept, so a stopped run goes on where it was.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from bdkit.checkpoints.load import load_model
from bdkit.editing.inversion import METHODS, invert
from bdkit.models.latent_diffusion import LatentDiffusion, decode_latents
from bdkit.models.preprocessing import to_images
from bdkit.utils.env import commit, device_name, pick_device
from bdkit.utils.io import write_text
from bdkit.utils.progress import progress_bar
from dreambench.editing import EditScene, edit_scenes
from eval.mini.editing import make_case
from eval.report.statistics import interval


def psnr(image: Image.Image, source: Image.Image) -> float:
    """In dB, of 8-bit images that differ."""
    error = np.square(np.asarray(image, float) - np.asarray(source, float)).mean()
    return float(10 * np.log10(255**2 / error))


def measure(model: LatentDiffusion, scene: EditScene, split: str) -> list[dict[str, Any]]:
    """A row a method: PSNR of its reconstruction and of the autoencoder's, U-Net calls, seconds of the inversion."""
    source = Image.fromarray(make_case(scene, split).source.image)
    rows = []
    for method in METHODS:
        settings: dict[str, Any] = {
            "num_inference_steps": model.defaults.num_inference_steps,
            "guidance_scale": model.defaults.guidance_scale,
            "negative_prompt": model.defaults.negative_prompt,
        }
        found = invert(model, source, scene.source_prompt, method, **settings)
        assert found.reconstruction is not None
        with torch.no_grad():
            limit = to_images(decode_latents(model.vae, found.latents[0]))[0]
        rows.append(
            {
                "scene": scene.name,
                "method": method,
                "psnr": psnr(found.reconstruction, source),
                "psnr_autoencoder": psnr(limit, source),
                "unet_calls": found.unet_calls,
                "seconds": found.seconds,
                "steps": settings["num_inference_steps"],
            }
        )
    return rows


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a method: PSNR with its interval over images, what the autoencoder's is above it, median calls, seconds."""
    rows = []
    for method, part in frame.groupby("method", sort=False):
        low, high = interval(part.psnr.to_numpy())
        rows.append(
            {
                "method": method,
                "psnr": part.psnr.mean(),
                "low": low,
                "high": high,
                "below_autoencoder": (part.psnr_autoencoder - part.psnr).mean(),
                "unet_calls": part.unet_calls.median(),
                "seconds": part.seconds.median(),
                "n": len(part),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Measures the shipped model and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/editing/inversions.csv"))
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--split", default="test")
    given = parser.parse_args()
    frame = pd.read_csv(given.out) if given.out.exists() else pd.DataFrame()
    done = set(frame["scene"]) if len(frame) else set()
    left = [scene for scene in edit_scenes(given.split, given.images) if scene.name not in done]
    model = load_model("mini")
    model.to(pick_device())
    for scene in progress_bar(left, desc="inversions", unit=" images"):
        rows = pd.DataFrame(measure(model, scene, given.split)).assign(device=device_name(), commit=commit())
        frame = pd.concat([frame, rows], ignore_index=True)
        write_text(frame.to_csv(index=False, float_format="%.4f"), given.out)
    print(summarise(frame).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
