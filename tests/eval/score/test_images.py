"""The readers of trees and manifests."""

from pathlib import Path

import pytest
from eval_helpers import PHOTO_SUITE as SUITE
from eval_helpers import draw, draw_tree, keys_of, suite_keys, write_manifest

from bdkit.utils.errors import InputError
from eval.score.images import read_images, read_manifest


@pytest.mark.parametrize("folders", ["", "mine", "seed3/mine", "images/seed3/mine"])
def test_the_tree_is_read_at_any_depth(tmp_path: Path, folders: str) -> None:
    draw_tree(tmp_path / "in" / folders)
    found = read_images(tmp_path / "in", SUITE)
    assert keys_of(found) == set(suite_keys())
    assert {image.id.method for image in found.images} == {"mine" if folders else "in"}
    assert {image.id.seed_set for image in found.images} == {3 if "seed" in folders else 0}
    assert found.unknown == ()


def test_prompt_folders_are_read_with_and_without_token(tmp_path: Path) -> None:
    for seed, (name, index, sample) in enumerate(suite_keys()):
        subject = next(subject for subject in SUITE.subjects if subject.name == name)
        prompt = next(prompt for prompt in SUITE.prompts(subject) if prompt.index == index)
        text = prompt.template.format("sks" if index % 2 else "", subject.class_noun)
        text = " ".join(text.split()) if sample else "_".join(text.split()).upper()
        draw(tmp_path / "theirs" / name / " ".join(text.split()) / f"{sample + 9}.png", seed)
    (tmp_path / "theirs" / SUITE.subjects[0].name / "a dog that flies").mkdir()
    draw(tmp_path / "theirs" / SUITE.subjects[0].name / "a dog that flies" / "1.png", 5)
    found = read_images(tmp_path, SUITE)
    assert {(subject, prompt) for subject, prompt, _ in keys_of(found)} == {place[:2] for place in suite_keys()}
    assert {image.id.method for image in found.images} == {"theirs"}
    assert [reason for _, reason in found.unknown] == [f"'a dog that flies' is no prompt of {SUITE.subjects[0].name}"]


def test_samples_of_prompt_folders_count_in_natural_order(tmp_path: Path) -> None:
    subject = SUITE.subjects[0]
    folder = tmp_path / subject.name / SUITE.prompts(subject)[0].text(subject.class_noun)
    for name in ("10.png", "2.png"):
        draw(folder / name, int(name[:-4]))
    found = read_images(tmp_path, SUITE, tree="prompt-folders")
    assert {image.path.name: image.id.sample for image in found.images} == {"2.png": 0, "10.png": 1}


def test_the_tree_of_dreambench_plus_is_read_with_its_texts(tmp_path: Path) -> None:
    root = tmp_path / "blip_gs7_5"
    for seed, (name, index, sample) in enumerate(suite_keys()):
        subject = next(subject for subject in SUITE.subjects if subject.name == name)
        text = next(prompt for prompt in SUITE.prompts(subject) if prompt.index == index).text(subject.class_noun)
        for kind in ("src_image", "tgt_image"):
            draw(root / kind / name / f"{index}_{sample}.jpg", seed)
        path = root / "text" / name / f"{index}_{sample}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a bird" if seed == 0 else text)
    for given in (tmp_path, root):
        found = read_images(given, SUITE)
        assert keys_of(found) == set(suite_keys()[1:])
        assert {image.id.method for image in found.images} == {"blip_gs7_5"}
        assert [reason for _, reason in found.unknown] == ["made for 'a bird', not for the suite's prompt 0"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"path": "a", "method": "m"}], "has no column 'subject'"),
        ([{"path": "a", "method": "m", "subject": "s", "sample": "0"}], "has no column 'prompt_index'"),
        ([{"path": "a", "method": "m", "subject": "s", "prompt_index": "x", "sample": "0"}], r"bad lines: line 2"),
        *(
            (
                [
                    {
                        "path": "a",
                        "method": "m",
                        "subject": "s",
                        "prompt_index": "0",
                        "sample": "0",
                        "seed_set": seed_set,
                    }
                ],
                rf"line 2 \(seed_set is '{seed_set}'; use a whole number from 0 to 999,999,999\)",
            )
            for seed_set in (2**63, -1, 0.5, "nan", "1_0")
        ),
        ([{"path": "", "method": "m", "subject": "s", "prompt_index": "1", "sample": "0"}], r"line 2 \(no path\)"),
    ],
)
def test_bad_manifests_are_one_line(tmp_path: Path, lines: list[dict[str, object]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_manifest(write_manifest(tmp_path / "m.csv", lines), tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "no.csv", tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_manifests_as_spreadsheets_save_them(separator: str, encoding: str, tmp_path: Path) -> None:
    """A European Excel separates by semicolons, and writes a byte-order mark; commas may stand in a path."""
    lines = ["path,method,subject,prompt_index, sample", '"a,b; c.png",mine,dog,3,1', ""]
    if separator != ",":
        lines = [line.replace(",", separator) if "a,b" not in line else line for line in lines]
        lines[1] = separator.join(['"a,b; c.png"', "mine", "dog", "3", "1"])
    (tmp_path / "m.csv").write_text("\r\n".join(lines), encoding=encoding, newline="")
    (image,) = read_manifest(tmp_path / "m.csv", tmp_path).images
    assert (image.path, image.id.method, image.id.prompt, image.id.sample) == (tmp_path / "a,b; c.png", "mine", 3, 1)
    (tmp_path / "m.csv").write_text("\n".join([f"sep={separator}", *lines]), encoding=encoding)
    assert read_manifest(tmp_path / "m.csv", tmp_path).images == (image,)
    (tmp_path / "m.csv").write_text("\n".join(lines), encoding="utf-16")
    with pytest.raises(InputError, match="save it as CSV in UTF-8"):
        read_manifest(tmp_path / "m.csv", tmp_path)
