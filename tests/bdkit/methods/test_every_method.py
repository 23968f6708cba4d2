"""What holds for every method: exact in its seed, independent of what came before, and the model stays as it was."""

import atexit
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit.checkpoints.re_imagen import additions, new_retrieval_unet, save_re_imagen
from bdkit.methods import METHODS, Method, build_method
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import RetrievalConfig
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

TEMPLATE = "a {} {} in the jungle"
COMMON: dict[str, Any] = {"steps": 3, "learning_rate": 1e-2, "snapshots": (1,)}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("base", {}),
    "textual-inversion": ("textual-inversion", {**COMMON, "templates": ("a {}", "a photo of a {}")}),
    "dreambooth": ("dreambooth", {**COMMON, "prior_loss_weight": 1.0, "class_images": 3}),
    "dreambooth-lora": ("dreambooth-lora", COMMON),
    "custom-diffusion": ("custom-diffusion", {**COMMON, "class_images": 3}),
    "dreambooth with text encoder": ("dreambooth", {**COMMON, "train_text_encoder": True}),
    "re-imagen": ("re-imagen", {}),
    "zero-shot": ("blip-diffusion", {"steps": 0}),
    "fine-tuned": ("blip-diffusion", COMMON),
}
TRAINED = [name for name in CASES if name not in ("base", "re-imagen", "zero-shot")]


@cache
def adapter_folder() -> Path:
    """Additions of Re-Imagen that look at the neighbours, for the tiny model."""
    folder = Path(tempfile.mkdtemp(prefix="bdkit-tests-")) / "additions"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    config, model = RetrievalConfig(heads=2), tiny_model()
    unet, generator = new_retrieval_unet(model, config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in additions(unet).values():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return save_re_imagen(unet, folder, config, {}, model)


def build(case: str, model: BlipDiffusion) -> Method:
    name, settings = CASES[case]
    if case == "re-imagen":
        # guided as the other cases are, by the model's own scale
        settings = {"adapter": str(adapter_folder()), "guidance_scale": None, "neighbour_guidance_scale": None}
    return build_method(name, model, preset="mini", **{"start": None, **settings})


def subject_images(seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (36, 32, 3), dtype=np.uint8)) for _ in range(3)]


def digest(images: list[Image.Image]) -> str:
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def plain(model: BlipDiffusion) -> str:
    """A generation that uses every part: U-Net, text encoder, tokenizers, multimodal encoder."""
    return digest(model("a {} in the snow", subject_images(9), "cat", seeds=[4])) + digest(
        model("a dog <*>", seeds=[5])
    )


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture(scope="module")
def fresh() -> str:
    return plain(tiny_model())


@pytest.fixture(scope="module")
def fitted() -> dict[str, Method]:
    """Every method, fitted on subject 0 with seed 7; all on one model object."""
    assert {name for name, _ in CASES.values()} == set(METHODS)
    model = tiny_model()
    methods = {}
    for case in CASES:
        methods[case] = build(case, model)
        methods[case].fit(subject_images(0), "dog", 7)
    return methods


@pytest.mark.parametrize("case", CASES)
def test_fit_is_exact_in_its_seed_and_independent_of_the_subject_before(fitted: dict[str, Method], case: str) -> None:
    method = fitted[case]
    assert isinstance(method, Method)
    first = method.state()
    other = build(case, tiny_model())
    other.fit(subject_images(1), "cat", 8)
    assert case == "base" or not same(first, other.state())
    other.fit(subject_images(0), "dog", 7)
    assert same(first, other.state())
    assert digest(other.generate(TEMPLATE, "dog", [1, 2])) == digest(method.generate(TEMPLATE, "dog", [1, 2]))


@pytest.mark.parametrize("case", TRAINED)
def test_another_seed_gives_another_fit(fitted: dict[str, Method], case: str) -> None:
    other = build(case, tiny_model())
    other.fit(subject_images(0), "dog", 8)
    assert not same(fitted[case].state(), other.state())


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_bit_identical_afterwards(fitted: dict[str, Method], fresh: str, case: str) -> None:
    model = fitted[case].model  # type: ignore[attr-defined]
    fitted[case].generate(TEMPLATE, "dog", [0])
    untouched = tiny_model()
    assert same(model.state_dict(), untouched.state_dict())
    assert model.tokenizer.get_vocab() == untouched.tokenizer.get_vocab()
    assert model.text_encoder.model.embeddings.token_embedding.weight.shape[0] == len(untouched.tokenizer)
    assert not any(module.training for module in model.modules())
    assert plain(model) == fresh


@pytest.mark.slow
def test_a_generation_after_all_methods_is_that_of_a_fresh_process(fitted: dict[str, Method]) -> None:
    code = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('case', {__file__!r}); "
        "case = importlib.util.module_from_spec(spec); spec.loader.exec_module(case); "
        f"case.torch.set_num_threads({torch.get_num_threads()}); "
        "print(case.plain(case.tiny_model()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert plain(fitted["base"].model) == done.stdout.strip()  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", CASES)
def test_a_saved_state_draws_the_same_images(fitted: dict[str, Method], case: str) -> None:
    method = fitted[case]
    resumed = build(case, tiny_model())
    resumed.load_state({name: value.clone() for name, value in method.state().items()})
    for step in (1, None) if case in TRAINED else (None,):
        method.select(step)
        resumed.select(step)
        assert digest(resumed.generate(TEMPLATE, "dog", [3])) == digest(method.generate(TEMPLATE, "dog", [3]))


@pytest.mark.parametrize("case", TRAINED)
def test_snapshots_are_weights_of_their_own(fitted: dict[str, Method], case: str) -> None:
    method = fitted[case]
    assert method.snapshots == (1, 3)
    drawn = {}
    for step in (1, 3, None, 1):
        method.select(step)
        drawn.setdefault(step, set()).add(digest(method.generate(TEMPLATE, "dog", [3])))
    method.select(None)
    assert all(len(drawn_images) == 1 for drawn_images in drawn.values())
    assert drawn[3] == drawn[None] != drawn[1]
    with pytest.raises(InputError, match="1, 3"):
        method.select(2)


@pytest.mark.parametrize("case", CASES)
def test_one_image_a_seed(fitted: dict[str, Method], case: str) -> None:
    images = fitted[case].generate("a red {} {}", "dog", [11, 12, 11])
    assert [image.size for image in images] == [(32, 32)] * 3
    assert digest(images[:1]) == digest(images[2:]) != digest(images[1:2])


@pytest.mark.parametrize("case", CASES)
def test_a_template_for_each_seed(fitted: dict[str, Method], case: str) -> None:
    """As for each alone, but for the rounding of another batch size."""
    both = fitted[case].generate([TEMPLATE, "a red {} {}"], "dog", [11, 12])
    alone = fitted[case].generate(TEMPLATE, "dog", [11]) + fitted[case].generate("a red {} {}", "dog", [12])
    swapped = fitted[case].generate(TEMPLATE, "dog", [12])
    difference = [np.abs(np.asarray(a, dtype=int) - np.asarray(b)).max() for a, b in zip(both, alone, strict=True)]
    assert max(difference) <= 1
    assert digest(swapped) != digest(both[1:])
    with pytest.raises(InputError, match="do not fit"):
        fitted[case].generate([TEMPLATE, TEMPLATE, TEMPLATE], "dog", [1, 2])


@pytest.mark.parametrize("case", CASES)
def test_settings_are_json_with_the_numbers_and_the_checkpoint(fitted: dict[str, Method], case: str) -> None:
    settings = json.loads(json.dumps(fitted[case].settings))
    assert (settings["method"], settings["scheduler"]) == (CASES[case][0], "PNDMScheduler")
    assert (settings["guidance_scale"], settings["num_inference_steps"]) == (3.0, 3)
    assert settings.get("steps", 0) == CASES[case][1].get("steps", 0)
    other = build(case, tiny_model(1)).settings
    assert other["checkpoint"] != settings["checkpoint"]
    assert {**other, "checkpoint": ""} == {**fitted[case].settings, "checkpoint": ""}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_drawn_is_refused(case: str) -> None:
    model = tiny_model()
    model.record["class_nouns"] = ["dog", "cat"]
    method = build(case, model)
    with pytest.raises(InputError, match="'wombat'; it knows dog, cat"):
        method.fit(subject_images(0), "wombat", 0)
    if case != "base":
        with pytest.raises(InputError, match="no subject image"):
            method.fit([], "dog", 0)
        with pytest.raises(InputError, match="call fit first"):
            method.generate(TEMPLATE, "dog", [0])
    else:
        with pytest.raises(InputError, match=r"needs \{\} where the subject goes"):
            method.generate("a dog", "dog", [0])
