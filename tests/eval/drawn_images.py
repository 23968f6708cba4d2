"""Images to score, and where they lie."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from dreambench.suites import Suite, load_suite
from eval.score.images import Found

SUITE = load_suite("dreambench").limited(subjects=2, prompts=3, samples=2)


def draw(path: Path, seed: int, size: tuple[int, int] = (48, 40), **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, **how)


def places(suite: Suite = SUITE) -> list[tuple[str, int, int]]:
    return [
        (subject.name, prompt.index, sample)
        for subject in suite.subjects
        for prompt in suite.prompts(subject)
        for sample in range(suite.samples_per_prompt)
    ]


def tree(root: Path, suite: Suite = SUITE) -> Path:
    for seed, (subject, prompt, sample) in enumerate(places(suite)):
        draw(root / subject / f"{prompt:02d}-{sample}.png", seed)
    return root


def keys_of(found: Found) -> set[tuple[str, int, int]]:
    return {(picture.subject, picture.prompt, picture.sample) for picture in found.pictures}


def write_manifest(path: Path, lines: list[dict[str, object]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def manifest(tmp_path: Path, **more: object) -> Path:
    lines: list[dict[str, object]] = []
    for seed, (subject, prompt, sample) in enumerate(places()):
        draw(tmp_path / "flat" / f"{seed}.png", seed)
        lines.append(
            {
                "path": f"{seed}.png",
                "method": "any",
                "subject": subject,
                "prompt_index": prompt,
                "sample": sample,
                **more,
            }
        )
    return write_manifest(tmp_path / "m.csv", lines)
