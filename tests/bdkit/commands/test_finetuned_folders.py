"""`bdkit generate` draws from every folder that `bdkit finetune` writes, and draws what the fitted method does."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bdkit import cli
from bdkit.checkpoints.adapters import LORA, WORD, load_drawable
from bdkit.methods import build_method
from bdkit.models.options import LoadOptions
from bdkit.models.stable_diffusion import StableDiffusion
from bdkit.testing.tiny_checkpoints import public_tiny_model, write_tiny_checkpoint
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.images import read_images

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
]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Start models; the preset "mini" begins with the folder mini-base beside the one that is given."""
    root = tmp_path_factory.mktemp("starts")
    model = public_tiny_model()
    names = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
    plain = StableDiffusion(**{name: getattr(model, name) for name in names})
    tiny_model().save_pretrained(root / "own" / "mini-base")
    plain.save_pretrained(root / "sd" / "mini-base")
    write_tiny_checkpoint(root / "public" / "mini-base")
    return {name: root / name / "mini-base" for name in ("own", "sd", "public")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        values = np.random.default_rng(number).integers(0, 256, (36, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    return folder


def finetune(model: Path, photos: Path, out: Path, *more: object) -> int:
    flags = ["--model", model, "--images", photos, "--subject", "dog", "--out", out, "--preset", "mini"]
    numbers = ["--steps", FIT["steps"], "--learning-rate", FIT["learning_rate"]]
    return cli.main(["finetune", *map(str, (*flags, *numbers, *more))])


def generate(model: Path, out: Path, *more: object, prompt: str = "a {} in the snow") -> int:
    flags = ["--model", model, "--out", out, "--prompt", prompt, "--seeds", "4-5", "--num-inference-steps", "3"]
    return cli.main(["generate", *map(str, (*flags, *more))])


def pixels(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder / f"{seed:05d}.png")) for seed in (4, 5)]


def assert_same(left: list[np.ndarray], right: list[Any]) -> None:
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(left, right, strict=True))


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(("name", "start"), CASES)
def test_the_folder_draws_what_the_fitted_method_draws(
    name: str, start: str, starts: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    model, out = starts[start], tmp_path / "mine"
    assert finetune(model, photos, out, "--method", name) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    assert not (out / ".fit").exists()
    method: Any = build_method(
        name, str(model), preset="mini", device="cpu", num_inference_steps=3, snapshots=(), **FIT
    )
    method.fit(read_images(photos), "dog", 0)
    assert generate(out, tmp_path / "drawn", "--subject", "dog") == 0
    drawn = pixels(tmp_path / "drawn")
    assert_same(drawn, method.generate("a {} {} in the snow", "dog", [4, 5]))
    base: Any = build_method("base", str(model), preset="mini", device="cpu", num_inference_steps=3)
    before = base.generate("a {} {} in the snow", "dog", [4, 5])
    assert not np.array_equal(drawn[0], np.asarray(before[0]))


@pytest.mark.parametrize("name", ["dreambooth-lora", "textual-inversion"])
def test_weights_on_top_of_a_model_find_it_again(
    name: str, starts: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(starts["sd"], tmp_path / "here" / "mini-base")
    mine = tmp_path / "here" / "mine"
    assert finetune(tmp_path / "here" / "mini-base", photos, mine, "--method", name) == 0
    hint = capsys.readouterr().out
    assert "bdkit generate --model" in hint
    assert "With diffusers: pipe.load_" in hint
    record = json.loads((mine / "finetuned.json").read_text())
    assert record["trained_on"] == {"model": "../mini-base"}
    assert generate(mine, tmp_path / "first") == 0
    (tmp_path / "here").rename(tmp_path / "there")  # both together may move
    mine = tmp_path / "there" / "mine"
    assert generate(mine, tmp_path / "second") == 0
    assert_same(pixels(tmp_path / "first"), pixels(tmp_path / "second"))
    assert len(json.loads((tmp_path / "second" / "run.json").read_text())["base_checkpoint"]) == 12
    (tmp_path / "there" / "mini-base").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert generate(mine, tmp_path / "third") == 2
    assert "name that model with --base" in refused(capsys)
    assert generate(mine, tmp_path / "third", "--base", tmp_path / "elsewhere") == 0
    assert_same(pixels(tmp_path / "first"), pixels(tmp_path / "third"))
    weights = tmp_path / "elsewhere" / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["conv_in.bias"] += 1e-3
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match="was trained on other weights than those of"):
        load_drawable(mine, LoadOptions(base=tmp_path / "elsewhere"))


def test_words_in_the_prompt_are_what_the_place_stands_for(
    starts: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    assert finetune(starts["sd"], photos, mine, "--method", "textual-inversion") == 0
    assert '{} stands for "<*> dog"' in capsys.readouterr().out
    assert generate(mine, tmp_path / "place") == 0
    assert generate(mine, tmp_path / "words", prompt="a <*> dog in the snow") == 0
    assert generate(mine, tmp_path / "any", prompt="a dog in the snow") == 0
    assert_same(pixels(tmp_path / "place"), pixels(tmp_path / "words"))
    assert not np.array_equal(pixels(tmp_path / "place")[0], pixels(tmp_path / "any")[0])
    for flags, words in (
        (["--images", photos, "--subject", "dog"], "already holds a subject (dog)"),
        (["--subject", "cat"], "holds a dog, not a cat"),
        (["--target-subject", "cat"], "draws its subject by the words '<*> dog'"),
    ):
        capsys.readouterr()
        assert generate(mine, tmp_path / "out", *flags) == 2
        assert words in refused(capsys)
    for command in (["convert", mine, tmp_path / "out"], ["finetune", "--model", mine, "--images", photos]):
        more = ["--subject", "dog", "--out", tmp_path / "out"] if command[0] == "finetune" else []
        assert cli.main([*map(str, (*command, *more))]) == 2
        assert "holds a LoRA or a learned word, no whole model" in refused(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "file"), [("dreambooth-lora", LORA), ("textual-inversion", WORD)])
def test_weights_that_do_not_fit_are_told(
    name: str, file: str, starts: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    assert finetune(starts["sd"], photos, mine, "--method", name) == 0
    whole = load_file(mine / file)
    narrow = {key: value[:, :3].contiguous() for key, value in whole.items()}
    stranger = {**whole, next(iter(whole)).replace("down_blocks", "no_blocks") + "x": torch.zeros(1, 128)}
    for state in (narrow, stranger):
        save_file(state, mine / file)
        capsys.readouterr()
        assert generate(mine, tmp_path / "out") == 2
        assert "does not fit" in capsys.readouterr().err.splitlines()[-1]
    (mine / file).write_bytes(b"short")
    assert generate(mine, tmp_path / "out") == 2
    assert f"{file} cannot be read" in capsys.readouterr().err


def test_a_lora_of_another_alpha_is_as_strong_for_every_reader(
    starts: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    """diffusers and others take alpha for the rank when the file does not tell it."""
    from diffusers import UNet2DConditionModel

    settings = {**FIT, "rank": 2, "alpha": 8.0, "num_inference_steps": 3, "snapshots": ()}
    method: Any = build_method("dreambooth-lora", str(starts["sd"]), preset="mini", device="cpu", **settings)
    method.fit(read_images(photos), "dog", 0)
    mine = method.save(tmp_path / "mine")
    ours = load_drawable(mine)
    assert not any(parameter.requires_grad and ".lora_" in name for name, parameter in ours.unet.named_parameters())
    drawn = ours("a {} in the snow", source_subject="sks dog", seeds=[4, 5], num_inference_steps=3)
    assert_same([np.asarray(picture) for picture in drawn], method.generate("a {} {} in the snow", "dog", [4, 5]))
    theirs = UNet2DConditionModel.from_pretrained(starts["sd"] / "unet")
    theirs.load_lora_adapter(mine, prefix="unet", weight_name=LORA)
    inputs = (torch.ones(1, 4, 16, 16), torch.tensor([500]), torch.ones(1, 77, 128))
    with torch.no_grad():
        assert torch.allclose(theirs(*inputs).sample, method._unet(*inputs).sample, atol=1e-5)
        assert not torch.allclose(theirs(*inputs).sample, method.model.unet(*inputs).sample, atol=1e-3)


@pytest.mark.parametrize("name", ["blip-diffusion", "dreambooth", "dreambooth-lora"])
def test_a_bfloat16_model_keeps_what_was_trained_in_float32(
    name: str, starts: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    assert finetune(starts["own"], photos, mine, "--method", name, "--dtype", "bfloat16") == 0
    state = load_file(mine / (LORA if "lora" in name else "unet/diffusion_pytorch_model.safetensors"))
    assert {value.dtype for value in state.values()} == {torch.float32}
    exact = [not torch.equal(value.bfloat16().float(), value) for value in state.values()]
    assert np.mean(exact) > 0.9
    if name != "blip-diffusion":
        settings = {**FIT, "num_inference_steps": 3, "snapshots": ()}
        options = LoadOptions(dtype=torch.bfloat16)
        method: Any = build_method(name, str(starts["own"]), preset="mini", device="cpu", options=options, **settings)
        method.fit(read_images(photos), "dog", 0)
        assert generate(mine, tmp_path / "drawn", "--dtype", "bfloat16") == 0
        assert_same(pixels(tmp_path / "drawn"), method.generate("a {} {} in the snow", "dog", [4, 5]))


@pytest.mark.parametrize("name", ["blip-diffusion", "dreambooth-lora"])
@pytest.mark.filterwarnings("ignore:.*are those of the plain base model")
def test_checkpoints_of_others_are_fine_tuned_with_what_they_lack(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LAVIS's weights with tokenizer and scheduler of a base folder, and a BERT tokenizer from anywhere."""
    lavis = write_tiny_checkpoint(tmp_path / "lavis", "lavis")
    base = write_tiny_checkpoint(tmp_path / "sd15")
    shutil.move(lavis / "qformer_tokenizer", tmp_path / "bert")
    shutil.rmtree(base / "qformer_tokenizer")
    shutil.rmtree(lavis / "tokenizer")
    mine, more = tmp_path / "mine", ("--method", name, "--preset", "public")
    assert finetune(lavis, photos, mine, *more) == 2
    assert "--base" in refused(capsys)
    assert finetune(lavis, photos, mine, *more, "--base", base) == 2
    assert "--qformer-tokenizer" in refused(capsys)
    if name == "dreambooth-lora":
        more = ("--method", name, "--preset", "mini")  # the public recipe draws 200 images of the class
        shutil.copytree(lavis, tmp_path / "mini-base")
    assert finetune(lavis, photos, mine, *more, "--base", base, "--qformer-tokenizer", tmp_path / "bert") == 0
    if name == "dreambooth-lora":
        named = json.loads((mine / "finetuned.json").read_text())["trained_on"]
        assert named == {"model": "../mini-base", "base": "../sd15", "qformer_tokenizer": "../bert"}
    assert generate(mine, tmp_path / "drawn", "--height", "16", "--width", "16") == 0
    assert pixels(tmp_path / "drawn")[0].shape == (16, 16, 3)
