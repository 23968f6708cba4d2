"""`bdkit score` with the metrics that need masks, sources or pixels, from files to scores.csv, against plain loops."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import sample_scene
from bdkit.miniworld.subjects import sample_subject
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image, write_png
from dreambench.suites import load_suite
from eval.generate.references import prepare
from eval.results_dir import REAL, REAL_WITH_SELF, Job, image_path, slots
from eval.score.extras import ExtraOptions
from eval.score.perceptual import BACKBONE_FILE, FOLDER, HEADS_FILE, Lpips
from eval.score.score import Evaluators, ScoreOptions, load_evaluators, score_folder

SUITE = load_suite("mini-quick").limited(subjects=2, prompts=2, samples=2)
JOB = Job("theirs", 0)
NAMES = (
    "dino_subject",
    "clip_i_subject",
    "clip_t_background",
    "ssim_outside",
    "copied",
    "copy_similarity",
    "diversity",
)
LPIPS_NAMES = ("lpips_outside", "diversity_lpips")
GREY = 128


def disc(number: int) -> np.ndarray:
    """A mask (64, 64) uint8, another one for every number, with a soft edge."""
    y, x = np.mgrid[:64, :64]
    distance = np.hypot(x - 32 - number % 5, y - 32 + number % 7)
    return np.clip(20 * (16 + number % 4 - distance), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder, masks of all its images and references, and sources: each image with its disc repainted."""
    out = tmp_path_factory.mktemp("scored") / "out"
    prepare(SUITE, out)
    rng = np.random.default_rng(0)
    number = 0
    for subject in SUITE.subjects:
        individual = sample_subject(subject.class_noun, "someone", "test")
        for slot in slots(SUITE, subject):
            path = image_path(out, JOB, slot)
            image = render(sample_scene(individual, rng)).image
            write_png(Image.fromarray(image), path)
            place = path.relative_to(out / "images")
            mask = disc(number)
            write_png(Image.fromarray(mask), out.parent / "masks" / place)
            source = np.where(mask[..., None] > 0, 255 - image, image)
            source[:6] = 0  # the edit changed this strip too
            write_png(Image.fromarray(source.astype(np.uint8)), out.parent / "sources" / place)
            number += 1
        for path in (out / "references" / subject.name).glob("*.png"):
            write_png(Image.fromarray(disc(number)), out.parent / "masks" / path.relative_to(out))
            number += 1
    return out


@pytest.fixture(scope="module")
def evaluators() -> Evaluators:
    return load_evaluators("mini", metrics=NAMES)


@pytest.fixture(scope="module")
def scores(folder: Path, evaluators: Evaluators) -> pd.DataFrame:
    extras = ExtraOptions(masks=str(folder.parent / "masks"), sources=folder.parent / "sources")
    options = ScoreOptions(extras=extras, cache=folder.parent / "cache", workers=0)
    return score_folder(folder, evaluators, options=options, show_progress=False)


def masked(path: Path, mask: Path, kept: str) -> Image.Image:
    pixels, share = np.asarray(read_image(path), dtype=np.float64), np.asarray(Image.open(mask)) / 255
    share = share if kept == "subject" else 1 - share
    mixed = pixels * share[..., None] + GREY * (1 - share[..., None])
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def values(scores: pd.DataFrame, metric: str, subject: str, method: str = JOB.method) -> list[float]:
    rows = scores[(scores["metric"] == metric) & (scores["subject"] == subject) & (scores["method"] == method)]
    return rows.sort_values(["prompt", "sample"])["value"].tolist()


@pytest.mark.weights
@pytest.mark.parametrize(("metric", "encoder"), [("dino_subject", "dino"), ("clip_i_subject", "clip")])
def test_subject_metrics_see_the_subject_alone(
    folder: Path, scores: pd.DataFrame, evaluators: Evaluators, metric: str, encoder: str
) -> None:
    network = evaluators.encoders[encoder]
    for subject in SUITE.subjects:
        paths = [image_path(folder, JOB, slot) for slot in slots(SUITE, subject)]
        masks = [folder.parent / "masks" / path.relative_to(folder / "images") for path in paths]
        own = sorted((folder / "references" / subject.name).glob("*.png"))
        of_own = [folder.parent / "masks" / path.relative_to(folder) for path in own]
        seen = network.embed_images([masked(*pair, "subject") for pair in zip(paths, masks, strict=True)])
        known = network.embed_images([masked(*pair, "subject") for pair in zip(own, of_own, strict=True)])
        wanted = []
        for row in seen.astype(float).tolist():
            cosines = [sum(a * b for a, b in zip(row, other, strict=True)) for other in known.astype(float).tolist()]
            wanted.append(sum(cosines) / len(cosines))
        np.testing.assert_allclose(values(scores, metric, subject.name), wanted, atol=2e-6)
        oracle = values(scores, metric, subject.name, REAL_WITH_SELF)
        assert len(oracle) == len(own)
        assert np.mean(oracle) > np.mean(values(scores, metric, subject.name, REAL))


@pytest.mark.weights
def test_background_metric_reads_the_place(folder: Path, scores: pd.DataFrame, evaluators: Evaluators) -> None:
    clip = evaluators.encoders["clip"]
    for subject in SUITE.subjects:
        wanted = []
        for slot in slots(SUITE, subject):
            if slot.prompt.kind != "context":
                continue
            path = image_path(folder, JOB, slot)
            mask = folder.parent / "masks" / path.relative_to(folder / "images")
            words = slot.prompt.text(subject.class_noun).removeprefix(f"a {subject.class_noun} ")
            image, text = clip.embed_images([masked(path, mask, "background")])[0], clip.embed_texts([words])[0]
            wanted.append(float(image.astype(float) @ text.astype(float)))
        assert wanted
        np.testing.assert_allclose(values(scores, "clip_t_background", subject.name), wanted, atol=2e-6)
        assert values(scores, "clip_t_background", subject.name, REAL) == []


@pytest.mark.weights
def test_ssim_counts_the_strip_and_not_the_disc(scores: pd.DataFrame) -> None:
    for subject in SUITE.subjects:
        found = values(scores, "ssim_outside", subject.name)
        assert len(found) == len(slots(SUITE, subject))
        assert all(0.5 < value < 0.99 for value in found)


@pytest.mark.weights
def test_every_metric_asked_for_is_there(folder: Path, scores: pd.DataFrame, evaluators: Evaluators) -> None:
    assert set(NAMES) <= set(scores["metric"])
    assert set(scores[scores["metric"] == "copied"]["value"]) <= {0.0, 1.0}
    assert scores[(scores["metric"] == "copied") & (scores["method"] == REAL_WITH_SELF)]["value"].mean() > 0.5
    plain = score_folder(folder, load_evaluators("mini"), options=ScoreOptions(workers=0), show_progress=False)
    assert set(NAMES) & set(plain["metric"]) == {"copied"}, "the others only where they are asked for"


@pytest.mark.weights
def test_masks_are_part_of_what_is_cached(
    folder: Path, scores: pd.DataFrame, evaluators: Evaluators, tmp_path: Path
) -> None:
    """Other masks give other scores, with the same cache; the same masks the same bytes."""
    for path in (folder.parent / "masks").rglob("*.png"):
        mask = Image.fromarray(255 - np.asarray(Image.open(path)))
        write_png(mask, tmp_path / path.relative_to(folder.parent / "masks"))
    found = {}
    for name, masks in (("same", folder.parent / "masks"), ("other", tmp_path)):
        extras = ExtraOptions(masks=str(masks), sources=folder.parent / "sources")
        options = ScoreOptions(extras=extras, cache=folder.parent / "cache", workers=0)
        found[name] = score_folder(folder, evaluators, options=options, show_progress=False)
    pd.testing.assert_frame_equal(found["same"], scores)
    subject = SUITE.subjects[0].name
    assert values(found["other"], "dino_subject", subject) != values(scores, "dino_subject", subject)
    assert values(found["other"], "dino", subject) == values(scores, "dino", subject)


@pytest.mark.weights
def test_lpips_from_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    (tmp_path / FOLDER).mkdir()
    network = Lpips()
    backbone = {f"features.{name}": torch.randn_like(v) * 0.05 for name, v in network.backbone.state_dict().items()}
    torch.save(backbone, tmp_path / FOLDER / BACKBONE_FILE)
    heads = {f"lin{i}.model.1.weight": torch.rand_like(head.weight) for i, head in enumerate(network.heads)}
    torch.save(heads, tmp_path / FOLDER / HEADS_FILE)
    monkeypatch.setenv("BDKIT_WEIGHTS_DIR", str(tmp_path))
    extras = ExtraOptions(masks=str(folder.parent / "masks"), sources=folder.parent / "sources")
    chosen = load_evaluators("mini", metrics=LPIPS_NAMES)
    frame = score_folder(folder, chosen, options=ScoreOptions(extras=extras, workers=0), show_progress=False)
    for metric in LPIPS_NAMES:
        for subject in SUITE.subjects:
            found = values(frame, metric, subject.name)
            assert len(found) == len(slots(SUITE, subject))
            assert min(found) > 0


@pytest.mark.weights
def test_what_is_missing_is_one_line(
    folder: Path, evaluators: Evaluators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = str(folder.parent / "masks")
    for extras, message in (
        (ExtraOptions(), "give the subjects' masks with --masks"),
        (ExtraOptions(masks=masks), "made from with --sources"),
        (ExtraOptions(masks=str(tmp_path), sources=tmp_path), "every image needs its mask"),
        (ExtraOptions(masks=masks, sources=tmp_path), "is missing"),
    ):
        with pytest.raises(InputError, match=message) as error:
            score_folder(folder, evaluators, options=ScoreOptions(extras=extras, workers=0), show_progress=False)
        assert "\n" not in str(error.value)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("BDKIT_WEIGHTS_DIR", raising=False)
    with pytest.raises(InputError, match="LPIPS needs"):
        score_folder(
            folder,
            load_evaluators("mini", metrics=["diversity_lpips"]),
            options=ScoreOptions(workers=0),
            show_progress=False,
        )
    with pytest.raises(InputError, match="unknown metric 'dinov9'; known are dino"):
        load_evaluators("mini", metrics=["dinov9"])
