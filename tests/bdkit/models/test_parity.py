"""Against the reference (diffusers 0.32.2), stage by stage, in each format; tests/reference recorded it."""

import json
from pathlib import Path
from typing import Any

import cases as REF
import numpy as np
import pytest
import torch

from bdkit.checkpoints.files import read_weights
from bdkit.checkpoints.formats.lavis_format import save_lavis
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_checkpoints import tiny_controlnet

REFERENCE = Path(__file__).parents[2] / "reference"
GOLDEN = REFERENCE / "golden"
FORMATS = ("diffusers", "lavis", "bdkit")
TOLERANCE = {"pixels": 1e-5, "subject": 1e-5, "prompt": 1e-5, "latents": 2e-4, "images": 1e-5}


@pytest.fixture(scope="module")
def models(tiny_folders: dict[str, Path]) -> dict[str, BlipDiffusion]:
    return {name: BlipDiffusion.from_pretrained(folder) for name, folder in tiny_folders.items()}


def ours(model: BlipDiffusion, case: dict[str, Any], *, cached: bool = False) -> dict[str, np.ndarray]:
    """Every stage of one call, through the public interface."""
    image = REF.image(case["image"], REF.SUBJECT)
    height, width = case["size"]
    call = {
        "target_subject": case["targets"], "negative_prompt": REF.NEGATIVE, "guidance_scale": case["guidance"],
        "num_inference_steps": case["steps"], "prompt_reps": case["reps"], "height": height, "width": width,
        "seeds": case["seeds"],
    }  # fmt: skip
    words = [REF.SUBJECT] * len(case["prompts"])
    subject = model.subject_embeddings if cached else model.encode_subject([image] * len(words), words)
    reference = () if cached else (image, words)
    latents = model(case["prompts"], *reference, **call, output_type="latent")
    prompt = model.encode_prompt(case["prompts"], subject, case["targets"], prompt_reps=case["reps"])
    return {
        "pixels": model.conventions.pixels([image], model.multimodal_encoder.image_size).numpy(),
        "subject": subject.numpy(),
        "prompt": prompt.numpy(),
        "latents": latents.numpy(),
        "images": model(case["prompts"], *reference, **call, output_type="np"),
    }


def assert_agree(found: dict[str, np.ndarray], golden: Path) -> None:
    with np.load(golden) as expected:
        worst = {stage: float(np.abs(found[stage] - expected[stage]).max()) for stage in expected.files}
        assert all(found[stage].shape == expected[stage].shape for stage in expected.files)
        grey = np.mean((expected["images"] > 0.02) & (expected["images"] < 0.98))
    assert grey > 0.2  # else the images say nothing
    assert all(worst[stage] <= TOLERANCE[stage] for stage in worst), worst


@pytest.mark.parametrize("name", list(REF.CASES))
@pytest.mark.parametrize("format", FORMATS)
def test_every_stage_is_that_of_the_reference(format: str, name: str, models: dict[str, BlipDiffusion]) -> None:
    model = models[format]
    if format == "lavis":  # the same weights; LAVIS's own preprocessing is tested below
        conventions, model.conventions = model.conventions, models["diffusers"].conventions
    try:
        assert_agree(ours(model, REF.CASES[name]), GOLDEN / f"{name}.npz")
    finally:
        if format == "lavis":
            model.conventions = conventions


def test_lavis_crops_as_torchvision_does(models: dict[str, BlipDiffusion]) -> None:
    assert_agree(ours(models["lavis"], REF.LAVIS_CASES["lavis"]), GOLDEN / "lavis.npz")
    square = REF.LAVIS_CASES["lavis"] | {"image": (40, 40)}
    assert not np.allclose(
        ours(models["lavis"], REF.LAVIS_CASES["lavis"])["pixels"], ours(models["diffusers"], square)["pixels"], atol=0.1
    )


def test_lavis_cached_subject_is_used(models: dict[str, BlipDiffusion], tmp_path: Path) -> None:
    model = models["lavis"]
    queries, width = model.multimodal_encoder.config.num_query_tokens, model.text_encoder.model.config.hidden_size
    model.subject_embeddings = torch.from_numpy(REF.cached_subject(queries, width))
    try:
        folder = save_lavis(model, tmp_path / "finetuned")
    finally:
        model.subject_embeddings = None
    loaded = BlipDiffusion.from_pretrained(folder)
    found = ours(loaded, REF.LAVIS_CASES["lavis_cached_subject"], cached=True)
    with np.load(GOLDEN / "lavis_cached_subject.npz") as golden:
        found["pixels"] = golden["pixels"]  # no image was looked at
    assert_agree(found, GOLDEN / "lavis_cached_subject.npz")


def test_a_prompt_with_a_place_and_one_without_are_the_same(models: dict[str, BlipDiffusion]) -> None:
    model, case = models["diffusers"], REF.CASES["square"]
    subject = model.encode_subject(REF.image(case["image"], REF.SUBJECT), REF.SUBJECT)
    with np.load(GOLDEN / "square.npz") as golden:
        for text in ("swimming underwater", "a {} swimming underwater"):
            hidden = model.encode_prompt(text, subject, "dog").numpy()
            assert np.abs(hidden - golden["prompt"]).max() <= 1e-5
        literal = model.encode_prompt("a dog swimming underwater", subject).numpy()
        assert np.abs(literal - golden["prompt"]).max() <= 1e-5


def test_what_is_written_has_the_keys_and_shapes_of_the_reference(tiny_folders: dict[str, Path]) -> None:
    expected = json.loads((GOLDEN / "keys.json").read_text())
    for part in ("qformer", "text_encoder", "unet", "vae"):
        state = read_weights(tiny_folders["diffusers"] / part, part)
        assert {name: list(value.shape) for name, value in state.items()} == expected[part], part
    state = tiny_controlnet().state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == expected["controlnet"]
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 600_000
