"""Edges of an image by Canny: what a ControlNet is trained on, and what it is then given."""

import numpy as np
import numpy.typing as npt

# The thresholds of the public BLIP-Diffusion example; ControlNet's own demonstration has 100 and 200
CANNY_LOW, CANNY_HIGH = 30, 70


def canny(image: npt.NDArray[np.uint8], low: float = CANNY_LOW, high: float = CANNY_HIGH) -> npt.NDArray[np.uint8]:
    """Edges, 0 or 255, (H, W) uint8, of an RGB image (H, W, 3) uint8.

    Args:
        low: gradients below this (of 0..255 values) are no edge.
        high: gradients above this are; those between are where they touch one.
    """
    import cv2  # half a second that only edges should cost

    return np.asarray(cv2.Canny(image, low, high), np.uint8)
