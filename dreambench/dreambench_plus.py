"""DreamBench++ (arXiv 2406.16855) as a suite, read from its published folder.

The archive's data folder holds, for each of 150 images,

    images/live_subject/animal/00.jpg      captions/live_subject/animal/00.txt
    images/live_subject/human/00.jpg       captions/live_subject/human/00.txt
    images/object/00.jpg                   captions/object/00.txt
    images/style/00.jpg                    captions/style/00.txt

A caption file has the subject's word in its first line and a prompt in each of the nine that follow: four
photorealistic, three that ask for another style, two imaginative. Images and prompts are not in this repository.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from bdkit.utils.errors import InputError
from dreambench.suites import Prompt, PromptKind, Suite, SuiteSubject

SUITE_NAME = "dreambench-plus"
# Category -> its folder below images/ and captions/, and how the published code begins its subjects' names
FOLDERS = {
    "animal": ("live_subject/animal", "live_subject_animal"),
    "human": ("live_subject/human", "live_subject_human"),
    "object": ("object", "object"),
    "style": ("style", "style"),
}
LIVE_CATEGORIES = ("animal", "human")
PUBLISHED_COUNTS = {"animal": 45, "human": 20, "object": 65, "style": 20}
# The order of a file's nine prompts, as the published code reads it
KINDS: tuple[PromptKind, ...] = ("photorealistic",) * 4 + ("style_transfer",) * 3 + ("imaginative",) * 2
# The published code's default; DreamBench has four
SAMPLES_PER_PROMPT = 1
N_NAMED = 5


def read_suite(folder: Path | None, counts: Mapping[str, int] | None = PUBLISHED_COUNTS) -> Suite:
    """The suite in a folder with images/ and captions/, subjects in the order of their names.

    A subject is named as in the published code, "live_subject_animal_00_kitten", and has one reference.
    counts: how many subjects each category must have; None takes what is there
    """
    if folder is None:
        raise InputError(f"the suite {SUITE_NAME} is read from its published folder; name that folder with --photos")
    if not (folder / "captions").is_dir() or not (folder / "images").is_dir():
        raise InputError(f"{folder} has no captions/ and images/; give DreamBench++'s data folder with --photos")
    subjects = []
    for category in FOLDERS:
        found = _read_category(folder, category)
        if counts is not None and len(found) != counts[category]:
            raise InputError(
                f"{folder} holds {len(found)} of DreamBench++'s {counts[category]} subjects of the category "
                f"{category}; unpack its archive again"
            )
        subjects += found
    if not subjects:
        raise InputError(f"{folder} holds no captions; give DreamBench++'s data folder with --photos")
    subjects.sort(key=lambda subject: subject.name)
    return Suite(SUITE_NAME, tuple(subjects), (), (), SAMPLES_PER_PROMPT, "photos")


def _read_category(folder: Path, category: str) -> list[SuiteSubject]:
    below = FOLDERS[category][0]
    captions = {path.stem: path for path in sorted((folder / "captions" / below).glob("*.txt"))}
    photos = {path.stem: path for path in sorted((folder / "images" / below).glob("*.jpg"))}
    alone = sorted(set(captions) ^ set(photos))
    if alone:
        named = ", ".join(f"{below}/{stem}" for stem in alone[:N_NAMED])
        raise InputError(f"{folder}: only an image or only captions for {named}; unpack its archive again")
    return [_read_subject(path, category, photos[stem].relative_to(folder)) for stem, path in captions.items()]


def _read_subject(path: Path, category: str, photo: Path) -> SuiteSubject:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); unpack DreamBench++'s archive again") from error
    noun, *prompts = [line for line in lines if line] or [""]
    if not noun or len(prompts) != len(KINDS):
        raise InputError(f"{path} holds {len(prompts)} prompts, not {len(KINDS)}; unpack DreamBench++'s archive again")
    if "{" in "".join(lines) or "}" in "".join(lines) or "/" in noun:
        raise InputError(f"{path} has a brace, or a slash in its subject; write them as words")
    return SuiteSubject(
        name=f"{FOLDERS[category][1]}_{path.stem}_{noun.lower().replace(' ', '_')}",
        class_noun=noun,
        live=category in LIVE_CATEGORIES,
        n_references=1,
        category=category,
        photo=photo.as_posix(),
        prompts=tuple(make_prompt(index, text, noun) for index, text in enumerate(prompts)),
    )


def make_prompt(index: int, text: str, class_noun: str) -> Prompt:
    """One published prompt with the subject's place marked where its word stands first.

    Where the word does not occur (as in many prompts for a style), a method is asked for "a {} {} TEXT", as
    BLIP-Diffusion's public code writes it. CLIP-T reads the published text in any case.
    """
    place = re.search(rf"\b{re.escape(class_noun)}(?!\w)", text, re.IGNORECASE)
    template = f"a {{}} {{}} {text}" if place is None else f"{text[: place.start()]}{{}} {{}}{text[place.end() :]}"
    prompt = Prompt(index, template, KINDS[index])
    return prompt if prompt.text(class_noun) == text else Prompt(index, template, KINDS[index], text)
