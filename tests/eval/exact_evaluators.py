"""Small networks inside this package's own encoders: an image's row is the same bits in every run."""

import numpy as np
import torch
from tiny_bench import TinyEncoder

from eval.score.encoders import Encoder
from eval.score.evaluators import Evaluators
from eval.score.protocols import Preprocessing

HOW = Preprocessing(short_side=32, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(128, 24)
    )


class Clip(Encoder):
    """Images by a network, texts as the tiny encoder has them."""

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return TinyEncoder(2, size=24).embed_texts(texts)


def evaluators(protocol: str = "dreambench", seed: int = 1) -> Evaluators:
    dino = Encoder(network(seed), HOW, "dino", {"file": "a", "sha256": str(seed)}, batch_size=5)
    clip = Clip(network(seed + 1), HOW, "clip", {"file": "b", "sha256": str(seed)}, batch_size=5)
    return Evaluators(protocol=protocol, encoders={"dino": dino, "clip": clip})
