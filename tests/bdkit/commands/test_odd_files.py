"""Files and names as people have them, in `bdkit generate` and `bdkit finetune`."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from bdkit import cli
from bdkit.models.blip_diffusion import BlipDiffusion

LATIN = "caf\udce9"


@pytest.fixture
def odd_photos(photos: Path, tmp_path: Path) -> Path:
    """A photo of a name that is not UTF-8, one of another suffix, and two that are left out."""
    folder = tmp_path / f"{LATIN} photos"
    (folder / "more").mkdir(parents=True)
    shutil.copy(photos / "0.png", folder / f"{LATIN}.png")
    with Image.open(photos / "1.png") as image:
        image.save(folder / "b.jfif", "JPEG")
        image.save(folder / "more" / "c.png")
    (folder / "d.heic").write_bytes(b"\0\0\0\x18ftypheic")
    return folder


def test_generate_and_finetune_read_them_and_name_what_is_left_out(
    odd_photos: Path,
    tmp_path: Path,
    generate: Callable[..., list[str]],
    finetune: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(generate("--images", odd_photos, "--subject", "dog", out=tmp_path / LATIN)) == 0
    assert "2 images are left out: d.heic, more/c.png; save them" in capsys.readouterr().err
    assert (tmp_path / LATIN / "00000.png").exists()
    assert cli.main(generate("--images", odd_photos, "--subject", "dog", out=tmp_path / LATIN)) == 0  # all are there
    out = tmp_path / "mine"
    assert cli.main(finetune("--images", odd_photos, "--mixed-precision", "no", out=out)) == 0
    assert BlipDiffusion.from_pretrained(out).subject_class == "dog"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--prompt", LATIN], r"--prompt 'caf\\udce9' is not UTF-8"),
        (["--negative-prompt", LATIN], "--negative-prompt .* is not UTF-8"),
        (["--subject", LATIN], "--subject .* is not UTF-8"),
        (["--images", "x" * 300, "--subject", "dog"], "the name is too long"),
        (["--out", "x" * 300], "name (is )?too long"),
        (["--images", "{photos}/0.png/deeper", "--subject", "dog"], "is not a folder"),
        (["--out", "{photos}/0.png/deeper"], "0.png is a file"),
    ],
)
def test_generate_refuses_in_one_line(
    flags: list[str], words: str, photos: Path, generate: Callable[..., list[str]], refused: Callable[..., str]
) -> None:
    line = refused(*generate(*[flag.replace("{photos}", str(photos)) for flag in flags]))
    assert re.search(words, line, re.IGNORECASE), line


def test_a_model_is_not_trained_for_a_folder_that_cannot_be_written(
    finetune: Callable[..., list[str]], refused: Callable[..., str], tmp_path: Path
) -> None:
    assert "is not UTF-8" in refused(*finetune(out=tmp_path / LATIN))
    assert not (tmp_path / LATIN).exists()


@pytest.mark.parametrize("subject", ["../dog", "/dog", "cat/dog", "..", "con"])
def test_the_folder_of_a_subject_stays_where_it_is(
    subject: str, public: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    flags = ["--model", public, "--images", photos, "--subject", subject, "--steps", 1, "--mixed-precision", "no"]
    assert cli.main(["finetune", *map(str, flags)]) in (0, 2)
    # "con" and "..": a class word that the model does not know is refused
    assert all(path.is_relative_to(inside) for path in tmp_path.rglob("*") if path.is_file())
    written = [path.name for path in inside.iterdir()]
    assert all(name.startswith("my-") for name in written)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc, where root cannot write, too")
@pytest.mark.parametrize(
    "arguments",
    [
        ["GENERATE", "--out"],
        ["FINETUNE", "--out"],
        ["prepare", "mini", "--scenes", "2", "--workers", "1", "--out"],
        ["prepare", "mini", "--scenes", "2", "--workers", "1", "--out", "OUT", "--work"],
        ["pretrain", "mini", "--smoke", "--out"],
        ["pretrain", "stage1", "--data", "shards", "--out"],
        ["train-evaluators", "--smoke", "--work"],
        ["train-evaluators", "--smoke", "--work", "OUT", "--weights"],
        ["bench", "mini-quick", "--out"],
        ["bench", "edit-mini", "--out"],
        ["score", "images", "--suite", "mini-quick", "--out"],
        ["table", "results", "--save"],
        ["interpolate", "mini/dog", "mini/dog6", "--model", "MODEL", "--out"],
        ["attention", "mini/dog", "--model", "MODEL", "--out"],
        ["convert", "MODEL"],
        ["world", "sheet", "--out"],
        ["push", "MODEL", "user/dog", "--license", "mit", "--dry-run"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
    arguments: list[str],
    generate: Callable[..., list[str]],
    finetune: Callable[..., list[str]],
    refused: Callable[..., str],
    model: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("x")
    names = {"OUT": str(tmp_path / "out"), "MODEL": str(model)}
    whole = {"GENERATE": generate, "FINETUNE": finetune}
    command = [names.get(word, word) for word in arguments]
    for target, words in ((tmp_path / "file" / "x", "file is a file"), ("/proc/bdkit", "/proc")):
        given = [*command, str(target)]
        line = refused(*(whole[given[0]](*given[1:]) if given[0] in whole else given))
        assert words in line or f"cannot write {target}" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
