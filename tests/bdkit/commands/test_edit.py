"""`bdkit edit`: what it writes, resuming, and what is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdkit import cli

FILES = ["mask.png", "result.png", "run.json", "source.png", "strip.png"]
FEW = ["--num-inference-steps", "3"]


def test_a_photo_and_a_subject(run: Callable[..., str], model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subject = ["--subject", "dog", "--subject-images", photos]
    arguments = [
        "edit",
        "--model",
        model,
        "--image",
        photos / "1.png",
        "--from",
        "a {cat} on the beach",
        *subject,
        *FEW,
    ]
    run(*arguments, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == FILES
    record = json.loads((out / "run.json").read_text())
    assert record["target_prompt"] == "a {} dog on the beach"
    assert record["inversion"]["method"] == "direct"
    assert record["inversion"]["unet_calls"] == 3
    assert set(record["references"]) == {"0.png", "1.png"}
    before = (out / "result.png").stat().st_mtime_ns
    assert "already" in run(*arguments, "--out", out)
    assert (out / "result.png").stat().st_mtime_ns == before
    (out / "result.png").unlink()
    run(*arguments, "--out", out)
    assert (out / "result.png").exists()


def test_a_generated_source_the_users_mask_and_words(
    run: Callable[..., str], refused: Callable[..., str], model: Path, tmp_path: Path
) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    shared = ["edit", "--model", model, "--generate-source", "--from", "a {cat}", *FEW, "--out", tmp_path / "out"]
    run(*shared, "--to", "a dog", "--mask", tmp_path / "m.png", "--seed", "7")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "mask.png")), mask)
    assert "another command" in refused(*shared, "--to", "a dog", "--seed", "8")
    run(*shared, "--to", "a dog", "--mask", "none", "--overwrite")
    assert not (tmp_path / "out" / "mask.png").exists()


def test_reweighting_alone(run: Callable[..., str], model: Path, tmp_path: Path) -> None:
    shared = ["edit", "--model", model, "--generate-source", "--from", "a cat in the snow", *FEW]
    run(*shared, "--reweight", "snow=3", "--preset", "lavis", "--out", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["target_prompt"] == "a cat in the snow"
    assert record["settings"]["original"] is True


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("blip-diffusion", "a {} dog on the beach"),
        ("dreambooth", "a sks dog on the beach"),
        ("dreambooth-lora", "a sks dog on the beach"),
    ],
)
def test_fine_tuned_folders_edit_with_their_subject(
    method: str, target: str, finetune: Callable[..., list[str]], run: Callable[..., str], model: Path, tmp_path: Path
) -> None:
    run(*finetune("--model", model, "--method", method))
    mine, out = tmp_path / "mine", tmp_path / "out"
    run("edit", "--model", mine, "--generate-source", "--from", "a {cat} on the beach", *FEW, "--out", out)
    assert json.loads((out / "run.json").read_text())["target_prompt"] == target
    assert not np.array_equal(*(np.asarray(Image.open(out / name)) for name in ("result.png", "source.png")))


GENERATED = ["--generate-source", "--from", "a {cat}", "--to", "a dog"]
REAL = ["--image", "{photos}/1.png", "--from", "a {cat}"]
REFUSED = [
    (["--from", "a {cat}"], "--image to edit, or --generate-source"),
    ([*REAL, "--generate-source"], "not both"),
    (["--image", "{photos}/1.png"], "--from is missing"),
    ([*REAL], "nothing to edit"),
    ([*REAL, "--subject", "dog"], "--subject needs --subject-images"),
    ([*REAL, "--subject-images", "{photos}"], "--subject-images needs --subject"),
    ([*REAL, "--subject", "unicorn", "--subject-images", "{photos}"], "does not know the class word 'unicorn'"),
    ([*REAL, "--subject", "dog", "--subject-images", "nowhere"], "nowhere is not a folder"),
    ([*REAL, "--to", "a {} dog"], "no subject was given"),
    ([*REAL, "--to", "a dog", "--mask", "m.png"], "--mask m.png: no such file"),
    ([*REAL, "--to", "a dog", "--reweight", "snow"], "write it like snow=2"),
    ([*REAL, "--to", "a dog", "--reweight", "snow=2"], "'snow' is not in"),
    ([*REAL, "--to", "a dog", "--inversion", "magic"], "unknown inversion 'magic'"),
    ([*REAL, "--to", "a dog", "--reweight", "dog=nan"], "write it like snow=2"),
    ([*REAL, "--to", ""], "--to is empty"),
    ([*REAL, "--to", "a dog", "--seed", "3"], "--seed is of --generate-source alone"),
    ([*REAL, "--to", "a dog", "--guidance-scale=-1"], "guidance_scale is -1.0"),
    (["--image", "{photos}", "--from", "a {cat}", "--to", "a dog"], "is a folder; give an image file"),
    ([*GENERATED, "--seed", str(2**63)], "seed is 9223372036854775808"),
    ([*GENERATED, "--inversion", "ddim"], "--inversion is of an --image alone"),
    ([*REAL, "--to", "a dog", "--threshold", "2"], "use 0 to 1"),
    ([*REAL, "--to", "a dog", "--threshold", "0.4", "--mask", "none"], "--threshold is of a mask from attention"),
    ([*REAL, "--to", "a dog", "--threshold", "0.4", "--mask", "{photos}/1.png"], "--threshold is of a mask"),
    ([*REAL, "--to", "a red dog", "--mode", "replace"], "needs prompts of as many words"),
    (["--image", "no.png", "--from", "a {cat}", "--to", "a dog"], "no.png is missing"),
    (["--generate-source", "--from", "a {cat} {dog}", "--to", "a dog"], "needs one word in braces"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refused_in_one_line(
    arguments: list[str], message: str, refused: Callable[..., str], model: Path, photos: Path, tmp_path: Path
) -> None:
    given = [text.replace("{photos}", str(photos)) for text in arguments]
    assert message in refused("edit", "--model", model, *given, *FEW, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_class_word_than_the_subjects_is_told(
    my_dog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["edit", "--model", str(my_dog), "--generate-source", "--from", "a {cow}", *FEW, "--mask", "none"]
    for noun, told in (("dog", ""), ("cat", f"bdkit: warning: {my_dog} holds a dog; it is drawn as a cat\n")):
        assert cli.main([*shared, "--subject", noun, "--out", str(tmp_path / noun)]) == 0
        assert told in (err := capsys.readouterr().err)
        assert ("warning" in err) == bool(told)
