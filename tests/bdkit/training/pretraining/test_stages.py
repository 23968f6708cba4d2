"""The whole pre-training at mini size, end to end with a handful of steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bdkit.checkpoints.load import checkpoint_hash
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.training.pretraining.presets import PRETRAIN
from bdkit.training.pretraining.stages import STAGES, pretrain_mini, random_backgrounds
from bdkit.utils.errors import InputError


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize(("stage", "missing"), [(n, s.requires[0]) for n, s in STAGES.items() if s.requires])
def test_a_stage_without_what_comes_before_is_one_line(stage: str, missing: str, tmp_path: Path) -> None:
    message = f"{stage} needs {missing}, which is not finished in .*; run `bdkit pretrain {missing}`"
    with pytest.raises(InputError, match=message) as caught:
        pretrain_mini(tmp_path, smoke=True, stages=[stage], progress=False, device="cpu")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_settings_and_unknown_stages_are_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"mattes": 3}')
    with pytest.raises(InputError, match="holds a pre-training with other settings"):
        pretrain_mini(tmp_path, smoke=True, progress=False, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    with pytest.raises(InputError, match="unknown stage 'stage3'; the stages are autoencoder, image-encoder, base"):
        pretrain_mini(tmp_path, stages=["stage3"])


def test_stages_come_in_order_and_backgrounds_are_of_all_places() -> None:
    for place, stage in enumerate(STAGES.values()):
        assert set(stage.requires) <= set(list(STAGES)[:place])
    assert set(PRETRAIN) == {"mini", "mini-smoke"}
    assert PRETRAIN["mini"].model == PRETRAIN["mini-smoke"].model
    images = random_backgrounds(40, 0)
    assert (images.shape, images.dtype) == ((40, 64, 64, 3), np.uint8)
    assert np.array_equal(images, random_backgrounds(40, 0))
    assert not np.array_equal(images, random_backgrounds(40, 1))
    assert len({p.tobytes() for p in images}) == 40


@pytest.mark.slow
def test_everything_once(tmp_path: Path) -> None:
    def run() -> Path:
        return pretrain_mini(tmp_path, smoke=True, progress=False, device="cpu")

    weights = run()
    for stage in STAGES:
        record = json.loads((tmp_path / stage / "run.json").read_text())
        assert record["final"]["step"] == record["config"]["steps"]
        assert np.isfinite(record["final"]["loss"])
        assert (tmp_path / stage / "loss.csv").exists()
    card = (weights / "mini" / "README.md").read_text()
    assert all(f"| {stage} |" in card for stage in STAGES)
    assert "256 scenes" in card

    model, base = (BlipDiffusion.from_pretrained(weights / name) for name in ("mini", "mini-base"))
    ours, theirs = model.state_dict(), base.state_dict()
    moved = {k.split(".")[0] for k in ours if not torch.equal(ours[k], theirs[k])}
    assert moved == {"unet", "text_encoder"}
    assert model.vae.config.scaling_factor != 1.0
    (image,) = model("a {} in the jungle", target_subject="dog", num_inference_steps=2, seeds=[0])
    assert image.size == (64, 64)

    # A second call trains nothing.
    before = {stage: contents(tmp_path / stage) for stage in (*STAGES, "corpus", "mattes")}
    names = {name: checkpoint_hash(weights / name) for name in ("mini", "mini-base")}
    run()
    assert {stage: contents(tmp_path / stage) for stage in before} == before
    assert {name: checkpoint_hash(weights / name) for name in names} == names

    # Killed between the last step of a stage and its weights: the checkpoint has it all.
    path = tmp_path / "stage2" / "weights.safetensors"
    finished = path.read_bytes()
    path.unlink()
    assert pretrain_mini(tmp_path, smoke=True, stages=["stage2"], progress=False, device="cpu") == weights
    assert path.read_bytes() == finished
    assert {name: checkpoint_hash(weights / name) for name in names} == names
