"""The training loop: exact resume after a kill, accumulation, moving average, guards; run as a script it is the child
process of the kill test."""

import csv
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdkit.training.config import TrainingConfig
from bdkit.training.data import FunctionBatches, step_generator
from bdkit.training.loop import TrainingDiverged, TrainingLoop
from bdkit.utils.errors import InputError
from bdkit.utils.io import write_json

PLAIN = TrainingConfig(
    steps=24, batch_size=4, learning_rate=1e-2, schedule="linear", warmup_steps=5, checkpoint_seconds=0
)
CONFIGS = {
    "plain": PLAIN,
    "ema": replace(PLAIN, ema_decay=0.9),
    "accumulation": replace(PLAIN, gradient_accumulation_steps=3),
    "both": replace(PLAIN, gradient_accumulation_steps=2, ema_decay=0.9, schedule="constant", seed=7),
}


class Regression(nn.Module):
    """A net with everything that has to survive a kill: parameters, buffers, dropout, noise from the generator."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.GELU(), nn.Linear(16, 1))

    def forward(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        noisy = batch + 0.1 * torch.randn(batch.shape, generator=generator)
        loss = F.mse_loss(self.net(noisy), batch.sum(1, keepdim=True).sin())
        return loss, {"twice": 2 * float(loss.detach())}


def batches(step: int, generator: torch.Generator) -> Tensor:
    return torch.randn(4, 6, generator=generator) + 0.01 * step


def loop(out: Path | None, config: TrainingConfig = PLAIN, **extra: Any) -> TrainingLoop:
    extra.setdefault("module", Regression())
    made = FunctionBatches(extra.pop("batches", batches), config.seed)
    return TrainingLoop(config=config, batches=made, out=out, progress=False, device="cpu", **extra)


def assert_same_run(resumed: TrainingLoop, undisturbed: TrainingLoop) -> None:
    ours, theirs = resumed.module.state_dict(), undisturbed.module.state_dict()
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    drop = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.history]
    assert drop == [{k: v for k, v in row.items() if k != "seconds"} for row in undisturbed.history]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stopped_run_ends_like_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step in (4, 15):
            raise Stopped

    undisturbed = loop(None, CONFIGS[name])
    undisturbed.run()
    for _ in range(2):  # the second start gets past step 4 only if it resumed
        torch.manual_seed(random.randrange(1000))  # dropout must not depend on what the process drew before
        with pytest.raises(Stopped):
            loop(tmp_path, CONFIGS[name], on_step=stop if _ == 0 else lambda step: stop(max(step, 5))).run()
    torch.rand(5)
    resumed = loop(tmp_path, CONFIGS[name])
    assert resumed.load_checkpoint()
    assert resumed.step == 14
    resumed.run()
    assert_same_run(resumed, undisturbed)


def child(out: Path) -> None:
    def wait(step: int) -> None:
        print(step, flush=True)
        sys.stdin.readline()

    loop(out, CONFIGS["both"], on_step=wait).run()


def test_a_killed_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    undisturbed = loop(None, CONFIGS["both"])
    undisturbed.run()
    last = random.randrange(3, 20)
    command = [sys.executable, __file__, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for step in range(1, last + 1):
            assert process.stdout.readline() == f"{step}\n"
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(random.random() * 0.01)  # somewhere in writing the checkpoint or in the next step
        process.kill()
    assert process.returncode == -9
    resumed = loop(tmp_path, CONFIGS["both"])
    assert resumed.load_checkpoint()
    assert last - 1 <= resumed.step <= last
    resumed.run()
    assert_same_run(resumed, undisturbed)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    def poisoned(index: int, generator: torch.Generator) -> Tensor:
        return batches(index, generator) * (float("nan") if index == 11 else 1)

    config = replace(PLAIN, gradient_accumulation_steps=2)
    kept: list[Tensor] = []
    module = Regression()
    diverging = loop(
        tmp_path, config, module=module, batches=poisoned, name="stage 9",
        on_step=lambda step: kept.append(module.net[0].weight.detach().clone()),
    )  # fmt: skip
    with pytest.raises(
        TrainingDiverged, match=r"^stage 9: the loss is nan at step 5, batch 11 \(seed 0\).*kept"
    ) as caught:
        diverging.run()
    assert "\n" not in str(caught.value)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (state["step"], state["batches"]) == (5, {"index": 10})
    assert torch.equal(state["module"]["net.0.weight"], kept[-1])
    assert torch.equal(module.net[0].weight, kept[-1])  # the batch has not touched the weights
    healthy, undisturbed = loop(tmp_path, config), loop(None, config)
    healthy.run()
    undisturbed.run()
    assert_same_run(healthy, undisturbed)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    module = Regression()

    def break_weights(step: int) -> None:
        if step == 6:
            with torch.no_grad():
                module.net[0].weight[2] = float("inf")

    with pytest.raises(TrainingDiverged, match=r"weights are not finite after step 5, .*earlier step is kept"):
        loop(tmp_path, PLAIN, module=module, on_step=break_weights).run()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 5
    assert all(value.isfinite().all() for value in state["module"].values())
    module = Regression()
    with pytest.raises(TrainingDiverged, match="weights are not finite after step 23"):
        loop(None, replace(PLAIN, checkpoint_seconds=60), module=module, on_step=break_at_end(module)).run()


def break_at_end(module: Regression) -> Any:
    return lambda step: step == PLAIN.steps and module.net[0].bias.data.fill_(float("nan"))


def test_any_iterable_with_a_state_is_resumed_exactly(tmp_path: Path) -> None:
    class Walk:
        """Batches that depend on all before them: only a saved state resumes them."""

        def __init__(self) -> None:
            self.state = {"last": torch.zeros(4, 6), "count": 0}

        def __iter__(self) -> Iterator[tuple[Tensor, torch.Generator]]:
            while True:
                generator = step_generator(5, self.state["count"])
                last = self.state["last"] + 0.1 * torch.randn(4, 6, generator=generator)
                self.state = {"last": last, "count": self.state["count"] + 1}
                yield last, generator

        def state_dict(self) -> dict[str, Any]:
            return self.state

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = state

    def walk(out: Path | None, stop_at: int = 0) -> TrainingLoop:
        def stop(step: int) -> None:
            if step == stop_at:
                raise Stopped

        return TrainingLoop(
            Regression(), Walk(), CONFIGS["accumulation"], out=out, progress=False, device="cpu", on_step=stop
        )

    undisturbed = walk(None)
    undisturbed.run()
    with pytest.raises(Stopped):
        walk(tmp_path, 9).run()
    resumed = walk(tmp_path)
    resumed.run()
    assert resumed.batches.state_dict()["count"] == 24 * 3
    assert_same_run(resumed, undisturbed)


def test_another_config_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    loop(tmp_path, replace(PLAIN, steps=3)).run()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match=r"other settings; choose another folder") as caught:
        loop(tmp_path, replace(PLAIN, steps=3, learning_rate=1e-3)).run()
    assert "\n" not in str(caught.value)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    loop(tmp_path, replace(PLAIN, steps=3, checkpoint_seconds=9)).run()  # how often to save may change
    (tmp_path / "checkpoint.pt").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"checkpoint\.pt cannot be read; remove it"):
        loop(tmp_path).run()


@pytest.mark.parametrize(
    "config", [replace(CONFIGS["ema"], restarts=(16,)), CONFIGS["both"]], ids=["restart", "constant"]
)
def test_a_finished_run_is_made_longer(tmp_path: Path, config: TrainingConfig) -> None:
    loop(tmp_path, replace(config, steps=16, restarts=())).run()
    longer, undisturbed = loop(tmp_path, config), loop(None, config)
    longer.run()
    undisturbed.run()
    assert longer.seconds > 0
    assert_same_run(longer, undisturbed)


def test_a_finished_run_is_not_trained_again_nor_at_other_rates(tmp_path: Path) -> None:
    loop(tmp_path, replace(PLAIN, steps=16)).run()
    for other in (PLAIN, replace(PLAIN, restarts=(12,)), replace(PLAIN, steps=10)):
        with pytest.raises(InputError, match="other settings"):
            loop(tmp_path, other).run()
    first = loop(tmp_path / "finished", CONFIGS["ema"])
    first.run()
    again = loop(tmp_path / "finished", CONFIGS["ema"], batches=lambda step, generator: pytest.fail("trained again"))
    again.run()
    assert_same_run(again, first)


def test_records_of_a_run(tmp_path: Path) -> None:
    module = Regression().eval()
    history = loop(tmp_path, replace(PLAIN, steps=6), module=module, name="a name").run()
    assert not module.training
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["name"], record["config"]["learning_rate"]) == ("a name", 1e-2)
    assert record["final"] == history[-1]
    assert record["trained_parameters"] == sum(p.numel() for p in module.parameters())
    with (tmp_path / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["twice"]) for row in rows] == [row["twice"] for row in history]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.pt", "loss.csv", "run.json"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 64 KiB: a tmpfs where we may mount one, else by the process's own file size limit."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    mounted = False
    with suppress(OSError):
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    if mounted:
        yield place
        subprocess.run(["umount", str(place)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    yield place
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_last_checkpoint(full_disk: Path) -> None:
    small = loop(full_disk, replace(PLAIN, steps=2))
    small.run()
    names = sorted(p.name for p in full_disk.iterdir())
    before = (full_disk / "checkpoint.pt").read_bytes()
    small.module.register_buffer("too_much", torch.zeros(1 << 16))
    with pytest.raises((InputError, RuntimeError)):  # torch's own writer raises a RuntimeError
        small.save_checkpoint()
    assert (full_disk / "checkpoint.pt").read_bytes() == before
    with pytest.raises(InputError, match="cannot write"):
        write_json(["x" * 100] * 2000, full_disk / "run.json")
    assert json.loads((full_disk / "run.json").read_text())["config"]["steps"] == 2
    assert sorted(p.name for p in full_disk.iterdir()) == names


if __name__ == "__main__":
    child(Path(sys.argv[1]))
