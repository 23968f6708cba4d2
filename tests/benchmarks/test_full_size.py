"""The full-size benchmark: its counts against the published ones, and a whole run at tiny shapes."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import ControlNetModel

from bdkit.models.configs import FULL, FULL_CONTROLNET
from bdkit.testing.full_size import random_model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "full_size.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("full_size_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def test_parts_have_the_published_numbers_of_parameters() -> None:
    from bdkit.training.finetuning import SubjectFinetuning

    model = random_model(FULL, "meta")
    counts = {
        "unet": 859_520_964,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        # ViT-L/14 of 23 layers, BERT-base with cross-attention and a second feed-forward, 16 queries, projection
        "multimodal_encoder": 290_583_552 + 198_663_936 + 16 * 768 + 4_723_968,
    }
    for name, expected in counts.items():
        assert sum(p.numel() for p in getattr(model, name).parameters()) == expected, name
    with torch.device("meta"):
        assert sum(p.numel() for p in ControlNetModel(**FULL_CONTROLNET).parameters()) == 361_279_120
    embedding = model.multimodal_encoder.query_tokens.detach()
    assert embedding.shape == (1, 16, 768)
    model.text_encoder.requires_grad_(False)
    module = SubjectFinetuning(model, model.unet, embedding, "dog", train_embedding=True)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == 859_520_964 + 16 * 768


@pytest.mark.slow
def test_counted_operations_are_the_published_ones(script: ModuleType) -> None:
    counted = script.count(FULL, FULL_CONTROLNET)
    published = {"unet": 0.803e12, "controlnet": 0.283e12, "decode": 2.5e12, "encode": 1.1e12, "text_encoder": 0.013e12}
    for name, expected in published.items():
        assert counted[name] == pytest.approx(expected, rel=0.04), name
    assert counted["multimodal_encoder"] == pytest.approx(0.155e12 + 0.0135e12, rel=0.1)
    assert script.zero_shot_flop(counted, 100) == pytest.approx(164.8e12, rel=0.01)
    assert 80 * script.BATCH * script.PASSES * counted["unet"] == pytest.approx(578e12, rel=0.01)


def test_one_call_makes_the_table(script: ModuleType, tmp_path: Path) -> None:
    assert script.main(["--tiny", "--repeats", "1", "--quiet", "--out", str(tmp_path)]) == 0
    with (tmp_path / "full_size.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_task = {row["task"]: row for row in rows}
    assert list(by_task) == [
        "zero-shot, 4 steps", "zero-shot, 8 steps", "text to image, 4 steps",
        "the same by diffusers' StableDiffusionPipeline, 4 steps", "zero-shot without channels last, 4 steps",
        "zero-shot with a ControlNet, 4 steps", "4 fine-tuning steps at batch 3", "a stage-2 step at batch 16",
        "scoring 4 images", "prepare 2 images on one core",
    ]  # fmt: skip
    assert float(by_task.pop("prepare 2 images on one core")["tflop"]) == 0
    rows.pop()
    for row in rows:
        assert float(row["seconds"]) > 0
        assert 0.01 < float(row["gib"]) < 64
        assert float(row["limit_seconds"]) > 0
        share = float(row["limit_seconds"]) / float(row["seconds"])
        assert float(row["of_limit"]) == pytest.approx(share)
        assert float(row["tflop"]) > 0
        for name in ("device", "commit", "torch", "diffusers", "transformers"):
            assert row[name]
    counted = script.count(script.TINY, script.TINY_CONTROLNET)
    flop = {task: float(row["tflop"]) * 1e12 for task, row in by_task.items()}
    assert flop["zero-shot, 8 steps"] - flop["zero-shot, 4 steps"] == pytest.approx(4 * 2 * counted["unet"])
    assert flop["4 fine-tuning steps at batch 3"] == pytest.approx(4 * 3 * 3 * counted["unet"])
    assert flop["zero-shot with a ControlNet, 4 steps"] > flop["zero-shot, 4 steps"] > flop["text to image, 4 steps"]
    assert flop["a stage-2 step at batch 16"] > 16 * 3 * counted["unet"]
    assert "share of the limit" in (tmp_path / "full_size.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full_size.csv", "full_size.md"]
