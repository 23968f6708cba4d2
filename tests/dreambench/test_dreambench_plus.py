import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdkit.utils.errors import InputError
from dreambench.dreambench_plus import FOLDERS, PUBLISHED_COUNTS, make_prompt, read_suite
from dreambench.photos import check_photos, photo_paths
from dreambench.registry import load_suite
from dreambench.suites import suite_from_json, suite_to_json

NOUNS = {"animal": "kitten", "human": "Samurai", "object": "piggy bank", "style": "ukiyo-e"}
PROMPTS = [
    "A {} in a field of flowers", "a {} on a wooden table", "Two {}s by the sea", "a photo of the {}, close-up",
    "a watercolour of a {}", "an oil painting of a {}", "a neon sign of a {}",
    "a {} that rides a {} through the clouds", "a {} made of glass",
]  # fmt: skip


def make_folder(root: Path, counts: dict[str, int]) -> Path:
    """A folder in the published tree, with images of noise."""
    rng = np.random.default_rng(0)
    for category, (below, _) in FOLDERS.items():
        for number in range(counts[category]):
            image, captions = root / "images" / below / f"{number:02d}.jpg", root / "captions" / below
            image.parent.mkdir(parents=True, exist_ok=True)
            captions.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(image)
            noun = NOUNS[category]
            lines = [noun, *(text.replace("{}", noun.lower()) for text in PROMPTS)]
            (captions / f"{number:02d}.txt").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("plus"), dict.fromkeys(FOLDERS, 2))


def test_whole_suite_has_the_published_counts(tmp_path: Path) -> None:
    suite = load_suite("dreambench-plus", make_folder(tmp_path, PUBLISHED_COUNTS))
    assert len(suite.subjects) == 150
    assert suite.n_images == 1350
    assert Counter(subject.category for subject in suite.subjects) == PUBLISHED_COUNTS
    assert sum(subject.live for subject in suite.subjects) == 65
    for subject in suite.subjects:
        kinds = Counter(prompt.kind for prompt in suite.prompts(subject))
        assert kinds == {"photorealistic": 4, "style_transfer": 3, "imaginative": 2}
    assert len({subject.name for subject in suite.subjects}) == 150
    check_photos(tmp_path, suite)
    (tmp_path / "captions/object/64.txt").unlink()
    (tmp_path / "images/object/64.jpg").unlink()
    with pytest.raises(InputError, match="holds 64 of DreamBench\\+\\+'s 65 subjects of the category object"):
        load_suite("dreambench-plus", tmp_path)


def test_subjects_are_named_as_in_the_published_code(folder: Path) -> None:
    suite = read_suite(folder, counts=None)
    assert [subject.name for subject in suite.subjects[::2]] == [
        "live_subject_animal_00_kitten", "live_subject_human_00_samurai", "object_00_piggy_bank", "style_00_ukiyo-e",
    ]  # fmt: skip
    bank = suite.subjects[4]
    assert (bank.class_noun, bank.live, bank.n_references, bank.photo) == (
        "piggy bank", False, 1, "images/object/00.jpg",
    )  # fmt: skip
    assert photo_paths(folder, bank) == [folder / "images" / "object" / "00.jpg"]
    assert suite.prompts(bank)[1].template == "a {} {} on a wooden table"


def test_clip_t_reads_the_published_words(folder: Path) -> None:
    suite = read_suite(folder, counts=None)
    for subject in suite.subjects:
        lines = (folder / "captions" / FOLDERS[subject.category][0] / f"{subject.photo[-6:-4]}.txt").read_text()
        published = [line for line in lines.splitlines() if line][1:]
        assert [prompt.text(subject.class_noun) for prompt in suite.prompts(subject)] == published
        assert all(prompt.template.count("{} {}") == 1 for prompt in suite.prompts(subject))
        assert all(prompt.template.count("{}") == 2 for prompt in suite.prompts(subject))


@pytest.mark.parametrize(
    ("text", "noun", "template", "published"),
    [
        ("a kitten asleep", "kitten", "a {} {} asleep", ""),
        ("Kitten asleep", "kitten", "{} {} asleep", "Kitten asleep"),
        ("a kitten and a kitten", "kitten", "a {} {} and a kitten", ""),
        ("two kittens", "kitten", "a {} {} two kittens", "two kittens"),
        ("a concatenation", "cat", "a {} {} a concatenation", "a concatenation"),
        ("a t-shirt on a line", "t-shirt", "a {} {} on a line", ""),
        ("waves in ukiyo-e style", "ukiyo-e", "waves in {} {} style", ""),
        ("a castle", "pixel art", "a {} {} a castle", "a castle"),
    ],
)
def test_subject_has_one_place(text: str, noun: str, template: str, published: str) -> None:
    prompt = make_prompt(0, text, noun)
    assert (prompt.template, prompt.published) == (template, published)
    assert prompt.text(noun) == text


def test_limits_reach_the_subjects_own_prompts(folder: Path) -> None:
    suite = read_suite(folder, counts=None).limited(subjects=2, prompts=3)
    assert [[prompt.index for prompt in suite.prompts(subject)] for subject in suite.subjects] == [[0, 3, 6]] * 2
    assert suite.n_images == 6
    assert suite.hash != read_suite(folder, counts=None).hash


def test_json_gives_the_suite_back_and_other_suites_keep_their_form(folder: Path) -> None:
    suite = read_suite(folder, counts=None)
    values = json.loads(json.dumps(suite_to_json(suite)))
    assert suite_from_json(values) == suite
    values["subjects"][0]["prompts"][0]["template"] = "a {} {} somewhere else"
    with pytest.raises(InputError, match="changed after"):
        suite_from_json(values)
    # hashes of the others stand in published tables
    values = suite_to_json(load_suite("mini").limited(subjects=4, samples=1))
    assert values["hash"] == "74bb81b76a1a9536"
    assert set(values["subjects"][0]) == {"name", "class_noun", "live", "n_references"}
    assert set(values["live_prompts"][0]) == {"index", "template", "kind"}


def remove_prompt(root: Path) -> None:
    path = root / "captions/style/00.txt"
    path.write_text("\n".join(path.read_text().split("\n")[:9]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_prompt, "00.txt holds 8 prompts, not 9"),
        (lambda root: (root / "images/object/01.jpg").unlink(), "only an image or only captions for object/01"),
        (lambda root: (root / "captions/object/01.txt").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda root: (root / "captions/object/01.txt").write_text(""), "holds 0 prompts"),
        (lambda root: (root / "captions/object/01.txt").write_text("a{b\n" + "x\n" * 9), "has a brace"),
        (lambda root: (root / "captions").rename(root / "c"), "has no captions/ and images/"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage, message: str) -> None:
    make_folder(tmp_path, dict.fromkeys(FOLDERS, 2))
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        read_suite(tmp_path, counts=None)


def test_missing_folders_and_photos_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name that folder with --photos"):
        load_suite("dreambench-plus")
    suite = read_suite(folder, counts=None)
    with pytest.raises(InputError, match=r"00\.jpg is missing; name the suite's published folder"):
        check_photos(tmp_path, suite)
