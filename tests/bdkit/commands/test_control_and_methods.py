"""`bdkit generate --control` and `bdkit finetune --method` on small untrained models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image, ImageDraw
from refusals import line_of

from bdkit import cli
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(tiny_model().unet, conditioning_embedding_out_channels=(8, 16, 16))
        for parameter in net.parameters():
            parameter.data.normal_(std=0.2 if parameter.dim() < 2 else parameter[0].numel() ** -0.5)
    net.save_pretrained(tmp_path_factory.mktemp("nets") / "net")
    return tmp_path_factory.getbasetemp() / "nets0" / "net"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, corner in enumerate((8, 16)):
        image = Image.new("RGB", (48, 40), "navy")
        ImageDraw.Draw(image).rectangle((corner, corner, corner + 16, corner + 16), fill="white")
        image.save(folder / f"{number}.png")
    return folder


def generate(model: Path, out: Path, *more: str) -> list[str]:
    return ["generate", "--model", str(model), "--out", str(out), "--prompt", "a dog in the snow", *more]


def pixels(folder: Path) -> np.ndarray:
    with Image.open(folder / "00000.png") as picture:
        return np.asarray(picture)


def test_a_structure_is_kept_and_recorded_by_its_hash(
    model: Path, net: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first, second = (["--control", f"canny={photos / name}", "--controlnet", str(net)] for name in ("0.png", "1.png"))
    assert cli.main(generate(model, out, *first)) == 0
    assert cli.main(generate(model, tmp_path / "plain")) == 0
    assert cli.main(generate(model, tmp_path / "weak", *first, "--control-strength", "0")) == 0
    assert (pixels(out) != pixels(tmp_path / "plain")).any()
    assert (pixels(tmp_path / "weak") == pixels(tmp_path / "plain")).all()
    text = (out / "run.json").read_text()
    assert str(photos) not in text
    record = json.loads(text)
    assert list(record["structures"]) == ["0: canny of 0.png"]
    assert record["settings"]["control_strength"] == [1.0]
    capsys.readouterr()
    assert cli.main(generate(model, out, *first)) == 0
    assert "already" in capsys.readouterr().out
    assert "another command" in line_of(generate(model, out, *second), capsys)


def test_several_structures_and_ready_maps(model: Path, net: Path, photos: Path, tmp_path: Path) -> None:
    two = f"canny={photos / '0.png'},scribble={photos / '1.png'}"
    flags = ["--control", two, "--controlnet", f"{net},{net}", "--control-strength", "1,0.5", "--control-ready"]
    assert cli.main(generate(model, tmp_path / "two", *flags, "--control-end", "1,0.6")) == 0
    assert cli.main(generate(model, tmp_path / "one", *flags[:1], two.split(",")[0], "--controlnet", str(net))) == 0
    assert (pixels(tmp_path / "two") != pixels(tmp_path / "one")).any()


def test_a_models_own_controlnet_is_taken_for_edges(model: Path, net: Path, photos: Path, tmp_path: Path) -> None:
    import shutil

    own = shutil.copytree(model, tmp_path / "own")
    shutil.copytree(net, own / "controlnet")
    index = json.loads((own / "model_index.json").read_text())
    (own / "model_index.json").write_text(json.dumps({**index, "controlnet": ["diffusers", "ControlNetModel"]}))
    flags = ["--control", f"canny={photos / '0.png'}"]
    assert cli.main(generate(own, tmp_path / "a", *flags)) == 0
    assert cli.main(generate(model, tmp_path / "b", *flags, "--controlnet", str(net))) == 0
    assert (pixels(tmp_path / "a") == pixels(tmp_path / "b")).all()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--control", "canny"], "names no image; write it like canny=photo.jpg"),
        (["--control", "pose=x.png"], "unknown structure 'pose'; known are canny, depth, hed, scribble"),
        (["--control", "canny=no-such.png"], "there is no file no-such.png"),
        (["--control", "canny=PHOTO", "--controlnet", "a,b"], "2 --controlnet for 1 --control"),
        (["--control", "canny=PHOTO", "--controlnet", "no-such-net"], "no ControlNet at 'no-such-net'"),
        (["--control", "canny=PHOTO", "--controlnet", "NET", "--control-start", "1"], "from 1.0 to 1.0"),
    ],
)
def test_mistakes_are_one_line(
    model: Path,
    net: Path,
    photos: Path,
    tmp_path: Path,
    flags: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [flag.replace("PHOTO", str(photos / "0.png")).replace("NET", str(net)) for flag in flags]
    assert words in line_of(generate(model, tmp_path / "out", *filled), capsys)
    assert not (tmp_path / "out").exists()


def finetune(model: Path, photos: Path, *more: str) -> list[str]:
    flags = ["--model", str(model), "--images", str(photos), "--subject", "dog", "--mixed-precision", "no"]
    return ["finetune", *flags, "--steps", "1", *more]


def test_the_folder_is_named_after_the_subject_unless_told(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(finetune(model, photos)) == 0
    assert BlipDiffusion.from_pretrained(tmp_path / "my-dog").subject_class == "dog"
    assert "--model my-dog" in capsys.readouterr().out
    assert "my-dog already holds something" in line_of(finetune(model, photos), capsys)


@pytest.mark.parametrize(
    ("method", "file", "words"),
    [
        ("dreambooth", "unet/diffusion_pytorch_model.safetensors", "a sks dog in the snow"),
        ("dreambooth-lora", "pytorch_lora_weights.safetensors", "pipe.load_lora_weights"),
        ("textual-inversion", "learned_embeds.safetensors", "a <*> dog in the snow"),
    ],
)
def test_the_other_methods(
    model: Path, photos: Path, tmp_path: Path, method: str, file: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    # the prior's images are not asked for by a flag: the preset "mini" draws none
    flags = ["--method", method, "--out", str(out), "--preset", "mini"]
    alone = tmp_path / "mini-base"
    tiny_model().save_pretrained(alone)
    assert cli.main(finetune(alone, photos, *flags)) == 0
    assert (out / file).is_file()
    assert words in capsys.readouterr().out


def test_what_cannot_be_finetuned(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    line = line_of(finetune(model, photos, *out, "--method", "base"), capsys)
    assert "known are textual-inversion, dreambooth, dreambooth-lora, blip-diffusion" in line
    line = line_of(finetune(model, photos, *out, "--method", "dreambooth", "--no-train-embedding"), capsys)
    assert "dreambooth has no --train-embedding" in line
    assert not (tmp_path / "out").exists()
