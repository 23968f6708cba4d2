"""What attention control costs: the U-Net time of an edit against that of plain calls, medians of one run.

python benchmarks/editing.py             the shipped mini model
python benchmarks/editing.py --tiny      a tiny random one, to see that it works
"""

import argparse
import sys
import time
from copy import deepcopy
from statistics import median
from typing import Any

import torch
from torch import nn

from bdkit.editing.edit import Edit, edit_batch
from bdkit.editing.edit_presets import EditConfig
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.env import device_name, pick_device

WARM_UP = 3  # calls of each kind that are not counted


def main(argv: list[str] | None = None) -> int:
    """Prints the median U-Net call of an edit and of a plain batch of as many rows, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model of random weights")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps of the edit (default: 50)")
    args = parser.parse_args(argv)
    model = (tiny_model() if args.tiny else BlipDiffusion.from_pretrained("mini")).to(pick_device())
    for count in (1, 4):
        edited, plain = measure(model, args.steps, count)
        print(
            f"{count} edits of {args.steps} steps on {device_name()}: {1000 * edited:.1f} ms a U-Net call, "
            f"plain {1000 * plain:.1f} ms, ratio {edited / plain:.3f}; {1000 * edited / count:.1f} ms a call and edit"
        )
    return 0


def measure(model: BlipDiffusion, steps: int, count: int) -> tuple[float, float]:
    """Median seconds of a U-Net call within an edit and of a plain one, which follows each of them at once."""
    request = Edit(source_prompt="a {cat} in the snow", target_prompt="a dog in the snow")
    plain = deepcopy(model.unet)
    begins, edited_seconds, plain_seconds = list[float](), list[float](), list[float]()

    def after(_module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        edited_seconds.append(_now() - begins[-1])
        begin = _now()
        plain(*inputs)
        plain_seconds.append(_now() - begin)

    hooks = [
        model.unet.register_forward_pre_hook(lambda *_: begins.append(_now())),
        model.unet.register_forward_hook(after),
    ]
    edit_batch(model, [request] * count, EditConfig(num_inference_steps=steps))
    for hook in hooks:
        hook.remove()
    return median(edited_seconds[WARM_UP:]), median(plain_seconds[WARM_UP:])


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
