"""`bdkit generate` draws from every folder that `bdkit finetune` writes, and draws what the fitted method does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bdkit.checkpoints.adapters import load_drawable, load_start
from bdkit.checkpoints.files import FINETUNED, KEY_VALUES, LORA, WORD, LoadOptions
from bdkit.methods import build_method
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.testing.tiny_checkpoints import public_tiny_model, write_tiny_checkpoint
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_images

Arguments = Callable[..., list[str]]
Call = Callable[..., str]
FIT = {"steps": 2, "learning_rate": 1e-2}
CASES = [
    ("blip-diffusion", "own"),
    ("blip-diffusion", "public"),
    ("dreambooth", "own"),
    ("dreambooth", "sd"),
    ("dreambooth-lora", "own"),
    ("dreambooth-lora", "sd"),
    ("textual-inversion", "public"),
    ("textual-inversion", "sd"),
    ("custom-diffusion", "own"),
    ("custom-diffusion", "sd"),
]
# Without images of the class, which the number of denoising steps would change
FEW = {"custom-diffusion": {"class_images": 0}}


@pytest.fixture(scope="module")
def starts(model: Path, public: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models to start from: bdkit's own format, the public one, and a plain Stable Diffusion."""
    whole = public_tiny_model()
    names = ("vae", "unet", "text_encoder", "tokenizer", "scheduler", "defaults")
    plain = LatentDiffusion(**{name: getattr(whole, name) for name in names})
    folder = plain.save_pretrained(tmp_path_factory.mktemp("sd") / "mini-base")
    return {"own": model, "public": public, "sd": folder}


@pytest.fixture
def draw(generate: Arguments) -> Arguments:
    """The arguments of `bdkit generate` with a folder and two seeds."""

    def arguments(folder: Path, out: Path, *more: object) -> list[str]:
        return generate("--model", folder, "--seeds", "4-5", "--num-inference-steps", 3, *more, out=out)

    return arguments


def pixels(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / f"{seed:05d}.png")) for seed in (4, 5)]


def few(name: str) -> tuple[object, ...]:
    return ("--class-images", 0) if name in FEW else ()


def assert_same(left: list[np.ndarray], right: list[Any]) -> None:
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("name", "start"), CASES)
def test_the_folder_draws_what_the_fitted_method_draws(name, start, starts, photos, tmp_path, finetune, draw, run):
    model, out = starts[start], tmp_path / "mine"
    run(*finetune("--model", model, "--method", name, *few(name)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert not (out / ".fit").exists()
    settings = {**FIT, **FEW.get(name, {}), "num_inference_steps": 3, "snapshots": ()}
    method: Any = build_method(name, str(model), preset="mini", device="cpu", **settings)
    method.fit(read_images(photos), "dog", 0)
    run(*draw(out, tmp_path / "drawn", "--subject", "dog"))
    drawn = pixels(tmp_path / "drawn")
    assert_same(drawn, method.generate("a {} {} in the snow", "dog", [4, 5]))
    base: Any = build_method("base", str(model), preset="mini", device="cpu", num_inference_steps=3)
    before = base.generate("a {} {} in the snow", "dog", [4, 5])
    assert not np.array_equal(drawn[0], np.asarray(before[0]))


@pytest.mark.parametrize("name", ["dreambooth-lora", "textual-inversion", "custom-diffusion"])
def test_weights_on_top_of_a_model_find_it_again(name, starts, tmp_path, finetune, draw, run, refused):
    shutil.copytree(starts["sd"], tmp_path / "here" / "mini-base")
    mine = tmp_path / "here" / "mine"
    hint = run(*finetune("--model", tmp_path / "here" / "mini-base", "--method", name, *few(name), out=mine))
    assert "bdkit generate --model" in hint
    assert "With diffusers: pipe.load_" in hint
    record = json.loads((mine / "finetuned.json").read_text())
    assert record["trained_on"] == {"model": "../mini-base"}
    run(*draw(mine, tmp_path / "first"))
    (tmp_path / "here").rename(tmp_path / "there")  # both together may move
    mine = tmp_path / "there" / "mine"
    run(*draw(mine, tmp_path / "second"))
    assert_same(pixels(tmp_path / "first"), pixels(tmp_path / "second"))
    assert len(json.loads((tmp_path / "second" / "run.json").read_text())["base_checkpoint"]) == 12
    (tmp_path / "there" / "mini-base").rename(tmp_path / "elsewhere")
    assert "name that model with --base" in refused(*draw(mine, tmp_path / "third"))
    run(*draw(mine, tmp_path / "third", "--base", tmp_path / "elsewhere"))
    assert_same(pixels(tmp_path / "first"), pixels(tmp_path / "third"))
    weights = tmp_path / "elsewhere" / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["conv_in.bias"] += 1e-3
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="was trained on other weights than those of"):
        load_drawable(mine, LoadOptions(base=tmp_path / "elsewhere"))


def test_words_in_the_prompt_are_what_the_place_stands_for(starts, photos, tmp_path, finetune, draw, run, refused):
    mine = tmp_path / "mine"
    assert '{} stands for "<*> dog"' in run(*finetune("--model", starts["sd"], "--method", "textual-inversion"))
    run(*draw(mine, tmp_path / "place"))
    run(*draw(mine, tmp_path / "words", "--prompt", "a <*> dog in the snow"))
    run(*draw(mine, tmp_path / "any", "--prompt", "a dog in the snow"))
    assert_same(pixels(tmp_path / "place"), pixels(tmp_path / "words"))
    assert not np.array_equal(pixels(tmp_path / "place")[0], pixels(tmp_path / "any")[0])
    for flags, words in (
        (["--images", photos, "--subject", "dog"], "already holds a subject (dog)"),
        (["--subject", "cat"], "holds a dog, not a cat"),
        (["--target-subject", "cat"], "draws its subject by the words '<*> dog'"),
    ):
        assert words in refused(*draw(mine, tmp_path / "out", *flags))
    for command in (["convert", mine, tmp_path / "out"], finetune("--model", mine, out=tmp_path / "out")):
        assert "holds a LoRA or a learned word, no whole model" in refused(*command)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "file"), [("dreambooth-lora", LORA), ("textual-inversion", WORD), ("custom-diffusion", KEY_VALUES)]
)
def test_weights_that_do_not_fit_are_told(name, file, starts, tmp_path, finetune, draw, run, refused):
    mine = tmp_path / "mine"
    run(*finetune("--model", starts["sd"], "--method", name, *few(name)))
    whole = load_file(mine / file)
    narrow = {key: value[..., :3].contiguous() for key, value in whole.items()}
    stranger = {**whole, next(iter(whole)).replace("down_blocks", "no_blocks") + "x": torch.zeros(1, 128)}
    for state in (narrow, stranger):
        save_file(state, mine / file)
        assert "does not fit" in refused(*draw(mine, tmp_path / "out"))
    (mine / file).write_bytes(b"short")
    assert f"{file} cannot be read" in refused(*draw(mine, tmp_path / "out"))
    (mine / file).unlink()
    assert "bdkit: error" in refused(*draw(mine, tmp_path / "out"))


def test_custom_diffusion_of_others_is_drawn_from_a_folder_with_its_word(starts, tmp_path, finetune, run):
    mine = tmp_path / "mine"
    run(*finetune("--model", starts["sd"], "--method", "custom-diffusion", *few("custom-diffusion")))
    options = LoadOptions(base=starts["sd"])
    expected = load_drawable(mine)("a <new1> dog", seeds=[1], num_inference_steps=3)
    (mine / FINETUNED).unlink()
    trained = {name: value for name, value in load_file(mine / KEY_VALUES).items() if value.numel()}
    save_file(trained, mine / KEY_VALUES)  # the script of diffusers writes no empty tensors
    (mine / WORD).rename(mine / "learned_embeds.bin")
    assert_same(load_start(mine, options)("a <new1> dog", seeds=[1], num_inference_steps=3), expected)
    (mine / "learned_embeds.bin").rename(mine / "<new1>.bin")
    for given in (mine, mine / KEY_VALUES):
        with pytest.raises(InputError, match="keys and values alone; give their folder, with the word's file in it"):
            load_start(given, options)


def test_a_lora_of_another_alpha_is_as_strong_for_every_reader(starts, photos, tmp_path):
    """diffusers and others take alpha for the rank when the file does not tell it."""
    from diffusers import UNet2DConditionModel

    settings = {**FIT, "rank": 2, "alpha": 8.0, "num_inference_steps": 3, "snapshots": ()}
    method: Any = build_method("dreambooth-lora", str(starts["sd"]), preset="mini", device="cpu", **settings)
    method.fit(read_images(photos), "dog", 0)
    mine = method.save(tmp_path / "mine")
    ours = load_drawable(mine)
    assert not any(parameter.requires_grad and ".lora_" in name for name, parameter in ours.unet.named_parameters())
    drawn = ours("a {} in the snow", target_subject="sks dog", seeds=[4, 5], num_inference_steps=3)
    assert_same([np.asarray(image) for image in drawn], method.generate("a {} {} in the snow", "dog", [4, 5]))
    theirs = UNet2DConditionModel.from_pretrained(starts["sd"] / "unet")
    theirs.load_lora_adapter(mine, prefix="unet", weight_name=LORA)
    inputs = (torch.ones(1, 4, 16, 16), torch.tensor([500]), torch.ones(1, 77, 128))
    with torch.no_grad():
        assert torch.allclose(theirs(*inputs).sample, method._unet(*inputs).sample, atol=1e-5)
        assert not torch.allclose(theirs(*inputs).sample, method.model.unet(*inputs).sample, atol=1e-3)


@pytest.mark.parametrize("name", ["blip-diffusion", "dreambooth", "dreambooth-lora", "custom-diffusion"])
def test_a_bfloat16_model_keeps_what_was_trained_in_float32(name, starts, photos, tmp_path, finetune, draw, run):
    mine = tmp_path / "mine"
    run(*finetune("--model", starts["own"], "--method", name, "--dtype", "bfloat16", *few(name)))
    files = {"dreambooth-lora": LORA, "custom-diffusion": KEY_VALUES}
    state = load_file(mine / files.get(name, "unet/diffusion_pytorch_model.safetensors"))
    state = {key: value for key, value in state.items() if value.numel()}
    assert {value.dtype for value in state.values()} == {torch.float32}
    exact = [not torch.equal(value.bfloat16().float(), value) for value in state.values()]
    assert np.mean(exact) > 0.9
    if name != "blip-diffusion":
        settings = {**FIT, **FEW.get(name, {}), "num_inference_steps": 3, "snapshots": ()}
        options = LoadOptions(dtype=torch.bfloat16)
        method: Any = build_method(name, str(starts["own"]), preset="mini", device="cpu", options=options, **settings)
        method.fit(read_images(photos), "dog", 0)
        run(*draw(mine, tmp_path / "drawn", "--dtype", "bfloat16"))
        assert_same(pixels(tmp_path / "drawn"), method.generate("a {} {} in the snow", "dog", [4, 5]))


@pytest.mark.parametrize("name", ["blip-diffusion", "dreambooth-lora"])
@pytest.mark.filterwarnings("ignore:.*are those of the plain base model")
def test_checkpoints_of_others_are_fine_tuned_with_what_they_lack(name, tmp_path, finetune, draw, run, refused):
    """LAVIS's weights with tokenizer and scheduler of a base folder, and a BERT tokenizer from anywhere."""
    lavis = write_tiny_checkpoint(tmp_path / "lavis", "lavis")
    base = write_tiny_checkpoint(tmp_path / "sd15")
    shutil.move(lavis / "qformer_tokenizer", tmp_path / "bert")
    shutil.rmtree(base / "qformer_tokenizer")
    shutil.rmtree(lavis / "tokenizer")
    mine, more = tmp_path / "mine", ("--method", name, "--preset", "public", "--model", lavis)
    assert "--base" in refused(*finetune(*more))
    assert "--qformer-tokenizer" in refused(*finetune(*more, "--base", base))
    if name == "dreambooth-lora":
        more = ("--method", name, "--model", lavis)  # the public recipe draws 200 images of the class
    run(*finetune(*more, "--base", base, "--qformer-tokenizer", tmp_path / "bert"))
    if name == "dreambooth-lora":
        named = json.loads((mine / "finetuned.json").read_text())["trained_on"]
        assert named == {"model": "../lavis", "base": "../sd15", "qformer_tokenizer": "../bert"}
    run(*draw(mine, tmp_path / "drawn", "--height", "16", "--width", "16"))
    assert pixels(tmp_path / "drawn")[0].shape == (16, 16, 3)
