"""Which pixels are the subject's: mask files beside the images, CLIPSeg, and images with one side blanked out.

A mask is (H, W) float64 in 0..1, 1 on the subject. Mask files are PNGs (white on the subject) in a tree of the same
shape as the images' tree.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from eval.score.protocols import Preprocessing

CLIPSEG = "CIDAS/clipseg-rd64-refined"
THRESHOLD = 0.5
Mask = NDArray[np.float64]
Kept = Literal["subject", "background"]
# what the masked metrics look at: name -> the encoder, and what it sees of the image
VIEWS: dict[str, tuple[str, Kept]] = {
    "dino_subject": ("dino", "subject"),
    "clip_subject": ("clip", "subject"),
    "clip_background": ("clip", "background"),
}


def read_mask(folder: Path, relative: Path, size: tuple[int, int]) -> Mask:
    """The mask (H, W) of the image whose place in the tree is `relative` (no ending), of (width, height) `size`.

    Raises InputError when it is missing, unreadable or of another size.
    """
    path = (folder / relative).with_name(relative.name + ".png")
    if not path.is_file():
        raise InputError(f"{path} is missing: every image needs its mask there, white on the subject")
    image = read_image(path).convert("L")
    if image.size != size:
        raise InputError(
            f"the mask {path} has {image.size[0]} x {image.size[1]} pixels, its image {size[0]} x {size[1]}"
        )
    return np.asarray(image, dtype=np.float64) / 255


def keep(image: Image.Image, mask: Mask, kept: Kept, fill: tuple[int, int, int]) -> Image.Image:
    """The image with the subject's pixels alone, or with all others alone; `fill` elsewhere, mixed at soft edges.

    Raises ValueError for a mask of another size.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    if mask.shape != pixels.shape[:2]:
        raise ValueError(f"a mask of {mask.shape} does not fit an image of {pixels.shape[:2]}")
    share = mask if kept == "subject" else 1 - mask
    mixed = pixels * share[..., None] + np.array(fill, dtype=np.float64) * (1 - share[..., None])
    return Image.fromarray(np.rint(mixed).clip(0, 255).astype(np.uint8))


def keep_subject(image: Image.Image, mask: Mask, how: Preprocessing) -> Image.Image:
    """The image with the subject alone on the colour that the network of `how` sees as zero."""
    return keep(image, mask, "subject", mean_colour(how))


def keep_background(image: Image.Image, mask: Mask, how: Preprocessing) -> Image.Image:
    """The image with the colour that the network of `how` sees as zero in the subject's place."""
    return keep(image, mask, "background", mean_colour(how))


def mean_colour(how: Preprocessing) -> tuple[int, int, int]:
    """The RGB colour nearest to the one that the preprocessing maps to zero."""
    red, green, blue = (round(255 * value) for value in how.mean)
    return red, green, blue


class ClipSegSegmenter:
    """Masks from a class noun, by CLIPSeg (arXiv 2112.10003).

    Args:
        path: hub id (from the cache or the hub) or local folder of the weights.

    Raises InputError when the weights are not there.
    """

    def __init__(self, path: str = CLIPSEG, device: str = "cpu") -> None:
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        try:
            self.processor = CLIPSegProcessor.from_pretrained(path)
            self.network = CLIPSegForImageSegmentation.from_pretrained(path).to(device).eval()
        except (OSError, ValueError) as error:
            raise InputError(
                f"the weights of {path} are not here ({type(error).__name__}): give masks as PNG files, a folder with "
                "CLIPSeg's weights, or run once with access to the Hugging Face hub"
            ) from error
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], class_noun: str) -> list[Mask]:
        """The mask of each image at its own size, 0 or 1: where the noun's probability is above THRESHOLD."""
        texts = [class_noun] * len(images)
        inputs = self.processor(text=texts, images=list(images), padding=True, return_tensors="pt").to(self.device)
        logits = self.network(**inputs).logits
        logits = logits.reshape(len(images), 1, *logits.shape[-2:])
        masks = []
        for image, row in zip(images, logits, strict=True):
            sized = interpolate(row[None], size=(image.height, image.width), mode="bilinear", align_corners=False)
            masks.append((sized[0, 0].sigmoid() > THRESHOLD).double().cpu().numpy())
        return masks
