"""What attention control costs: the U-Net time of an edit against that of plain calls, medians of one run.

python benchmarks/editing.py             the shipped mini model
python benchmarks/editing.py --tiny      a tiny random one, to see that it works
"""

import argparse
import sys
import time
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


class UnetClock:
    """The seconds of each call of a U-Net, by its hooks."""

    def __init__(self, unet: nn.Module) -> None:
        self.seconds: list[float] = []
        self._begin = 0.0
        self._hooks = [unet.register_forward_pre_hook(self._before), unet.register_forward_hook(self._after)]

    def _before(self, *_: Any) -> None:
        self._begin = _now()

    def _after(self, *_: Any) -> None:
        self.seconds.append(_now() - self._begin)

    def stop(self) -> list[float]:
        """The seconds so far; the clock comes off the U-Net."""
        for hook in self._hooks:
            hook.remove()
        return self.seconds


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
    """Median seconds of a U-Net call within an edit and of a plain one."""
    request = Edit(source_prompt="a {cat} in the snow", target_prompt="a dog in the snow")
    clock = UnetClock(model.unet)
    shapes: list[tuple[torch.Tensor, Any, torch.Tensor]] = []
    keep = model.unet.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs))
    edit_batch(model, [request] * count, EditConfig(num_inference_steps=steps))
    keep.remove()
    edited = clock.stop()
    clock = UnetClock(model.unet)
    with torch.no_grad():
        for inputs in shapes:
            model.unet(*inputs)
    return median(edited[WARM_UP:]), median(clock.stop()[WARM_UP:])


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
