"""`bdkit generate` with the checkpoints of others: from the folder to images, and clear lines for what lacks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit import cli
from bdkit.checkpoints.lavis_format import save_lavis
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_checkpoints import write_tiny_checkpoint

SMALL = ("--num-inference-steps", "1", "--height", "16", "--width", "24")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(2):
        values = np.random.default_rng(k).integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{k}.png")
    return folder


def generate(*arguments: object) -> int:
    return cli.main(["generate", *map(str, arguments), *SMALL])


def test_a_public_folder_draws(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_checkpoint(tmp_path / "public")
    shutil.move(folder / "qformer_tokenizer", tmp_path / "bert")
    subject = ("--model", folder, "--images", photos, "--subject", "dog", "--prompt", "in the snow")
    assert generate(*subject, "--out", tmp_path / "out") == 2
    assert "--qformer-tokenizer" in capsys.readouterr().err
    flags = ("--qformer-tokenizer", tmp_path / "bert", "--dtype", "bfloat16", "--template", "paper")
    assert generate(*subject, *flags, "--out", tmp_path / "out", "--reference-weights", "2,1", "--seeds", "0-1") == 0
    assert [Image.open(tmp_path / "out" / f"0000{k}.png").size for k in range(2)] == [(24, 16)] * 2
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["template"] == "paper"
    assert record["model"]["prompt_reps"] == 20
    capsys.readouterr()
    assert generate(*subject, *flags[:2], "--out", tmp_path / "more", "--reference-weights", "1") == 2
    assert "2 reference images but 1 weights" in capsys.readouterr().err


def test_a_fine_tuned_lavis_folder_needs_the_class_word(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = BlipDiffusion.from_pretrained(write_tiny_checkpoint(tmp_path / "public"))
    model.subject_embeddings = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(0))
    folder = save_lavis(model, tmp_path / "lavis")
    call = ("--model", folder, "--prompt", "a {} in the snow", "--out", tmp_path / "out")
    assert generate(*call) == 2
    assert "name it with --subject" in capsys.readouterr().err
    assert generate(*call, "--images", photos, "--subject", "dog") == 2
    assert "already holds a subject" in capsys.readouterr().err
    assert generate(*call, "--subject", "dog") == 0
    assert (tmp_path / "out" / "00000.png").exists()
