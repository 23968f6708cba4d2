"""From the coarse mask of attention to the objects' outlines, in pixels, and the source's own pixels outside."""

from collections.abc import Sequence
from math import ceil

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

SIDE = 128  # smaller images are enlarged for GrabCut, whose cuts run between pixels
ITERATIONS = 2
MARGIN, DEPTH = 0.375, 1.75  # cells around the mask that may belong to the object, and within it that may not
FEWEST = 30  # pixels from which the colours of object and background can be told
LEAST = 0.25  # share of the mask below which the object was not found


def outline_mask(images: Sequence[Image.Image], mask: Image.Image, cell: float) -> Image.Image:
    """Where any of the images shows an object, by GrabCut (Rother et al. 2004) seeded with a mask.

    An image in which no object is found keeps the mask as it is.

    Args:
        images: RGB, of one size: the source and the result of an edit.
        mask: white roughly where the objects are.
        cell: side of the mask's cells in pixels, which says how far its edge may be off.
    """
    rough = np.asarray(mask.convert("L")) > 127
    union = np.any([_object(np.asarray(image.convert("RGB")), rough, cell) for image in images], axis=0)
    return Image.fromarray(union.astype(np.uint8) * 255)


def keep_outside(source: Image.Image, image: Image.Image, mask: Image.Image, fade: float) -> Image.Image:
    """The image within the mask, the source's own pixels outside; the edge is blurred by ``fade`` pixels."""
    return Image.composite(image, source, mask.convert("L").filter(ImageFilter.GaussianBlur(fade)))


def _object(image: npt.NDArray[np.uint8], rough: npt.NDArray[np.bool_], cell: float) -> npt.NDArray[np.bool_]:
    """(H, W): the object that the rough mask points at."""
    height, width = rough.shape
    scale = ceil(SIDE / min(height, width)) if min(height, width) < SIDE else 1
    size = (width * scale, height * scale)
    labels = cv2.resize(_labels(rough, cell), size, interpolation=cv2.INTER_NEAREST)
    objects = (labels % 2 == 1).sum()
    if min(objects, labels.size - objects) < FEWEST:
        return rough
    cv2.setRNGSeed(0)
    large = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)[..., ::-1])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(large, labels, (0, 0, 0, 0), *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    found = cv2.resize((labels % 2).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0.5
    return found if found.sum() >= LEAST * rough.sum() else rough


def _labels(rough: npt.NDArray[np.bool_], cell: float) -> npt.NDArray[np.uint8]:
    """(H, W) of GrabCut's labels; odd ones are the object's: certain in the mask's depth, probable in the mask."""
    solid = rough.astype(np.uint8)
    grown = cv2.dilate(solid, _disk(round(MARGIN * cell)))
    sure = cv2.erode(solid, _disk(round(DEPTH * cell)), borderType=cv2.BORDER_REPLICATE)
    if not sure.any():
        depth = cv2.distanceTransform(solid, cv2.DIST_L2, 5)
        sure = (solid & (depth >= 0.7 * depth.max())).astype(np.uint8)
    labels = np.where(grown > 0, cv2.GC_PR_BGD, cv2.GC_BGD)
    labels = np.where(rough, cv2.GC_PR_FGD, labels)
    return np.where(sure > 0, cv2.GC_FGD, labels).astype(np.uint8)


def _disk(radius: int) -> npt.NDArray[np.uint8]:
    side = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
