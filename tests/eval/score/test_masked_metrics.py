"""`bdkit score` with the metrics that need masks, sources or pixels, from files to scores.csv, against plain loops."""

from pathlib import Path

import lpips
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.models import AlexNet, alexnet

from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import sample_scene
from bdkit.miniworld.subjects import sample_subject
from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image, write_png
from dreambench.registry import load_suite
from eval.generate.references import prepare
from eval.results_dir import REAL, REAL_WITH_SELF, subject_ids
from eval.score.masks import ALEXNET_FILE, load_lpips
from eval.score.score import Evaluators, ScoreOptions, load_evaluators, score_folder
from eval.score.weights import WeightsSource

SUITE = load_suite("mini-quick").limited(subjects=2, prompts=2, samples=2)
METHOD = "theirs"
NAMES = (
    "dino_subject", "clip_i_subject", "clip_t_background", "ssim_outside", "copied", "copy_similarity", "diversity",
)  # fmt: skip
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
        for one in subject_ids(SUITE, METHOD, 0, subject):
            path = one.path(out)
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
    extras = {"masks": str(folder.parent / "masks"), "sources": folder.parent / "sources"}
    options = ScoreOptions(**extras, cache=folder.parent / "cache", workers=0)
    return score_folder(folder, evaluators, options=options, show_progress=False)


def masked(path: Path, mask: Path, kept: str) -> Image.Image:
    pixels, share = np.asarray(read_image(path), dtype=np.float64), np.asarray(Image.open(mask)) / 255
    share = share if kept == "subject" else 1 - share
    mixed = pixels * share[..., None] + GREY * (1 - share[..., None])
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def values(scores: pd.DataFrame, metric: str, subject: str, method: str = METHOD) -> list[float]:
    rows = scores[(scores["metric"] == metric) & (scores["subject"] == subject) & (scores["method"] == method)]
    return rows.sort_values(["prompt", "sample"])["value"].tolist()


@pytest.mark.weights
@pytest.mark.parametrize(("metric", "encoder"), [("dino_subject", "dino"), ("clip_i_subject", "clip")])
def test_subject_metrics_see_the_subject_alone(folder, scores, evaluators, metric, encoder):
    network = evaluators.encoders[encoder]
    for subject in SUITE.subjects:
        paths = [one.path(folder) for one in subject_ids(SUITE, METHOD, 0, subject)]
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
        prompts = {prompt.index: prompt for prompt in SUITE.prompts(subject) if prompt.kind == "context"}
        for one in subject_ids(SUITE, METHOD, 0, subject):
            if one.prompt not in prompts:
                continue
            path = one.path(folder)
            mask = folder.parent / "masks" / path.relative_to(folder / "images")
            words = prompts[one.prompt].text(subject.class_noun).removeprefix(f"a {subject.class_noun} ")
            image, text = clip.embed_images([masked(path, mask, "background")])[0], clip.embed_texts([words])[0]
            wanted.append(float(image.astype(float) @ text.astype(float)))
        assert wanted
        np.testing.assert_allclose(values(scores, "clip_t_background", subject.name), wanted, atol=2e-6)
        assert values(scores, "clip_t_background", subject.name, REAL) == []


@pytest.mark.weights
def test_ssim_counts_the_strip_and_not_the_disc(scores: pd.DataFrame) -> None:
    for subject in SUITE.subjects:
        found = values(scores, "ssim_outside", subject.name)
        assert len(found) == len(subject_ids(SUITE, METHOD, 0, subject))
        assert all(0.5 < value < 0.99 for value in found)


@pytest.mark.weights
def test_every_metric_asked_for_is_there(folder: Path, scores: pd.DataFrame, evaluators: Evaluators) -> None:
    assert set(NAMES) <= set(scores["metric"])
    assert set(scores[scores["metric"] == "copied"]["value"]) <= {0.0, 1.0}
    assert scores[(scores["metric"] == "copied") & (scores["method"] == REAL_WITH_SELF)]["value"].mean() > 0.5
    plain = score_folder(folder, load_evaluators("mini"), options=ScoreOptions(workers=0), show_progress=False)
    assert set(NAMES) & set(plain["metric"]) == {"copied"}, "the others only where they are asked for"


@pytest.mark.weights
def test_masks_are_part_of_what_is_cached(folder, scores, evaluators, tmp_path):
    """Other masks give other scores, with the same cache; the same masks the same bytes."""
    for path in (folder.parent / "masks").rglob("*.png"):
        mask = Image.fromarray(255 - np.asarray(Image.open(path)))
        write_png(mask, tmp_path / path.relative_to(folder.parent / "masks"))
    found = {}
    for name, masks in (("same", folder.parent / "masks"), ("other", tmp_path)):
        extras = {"masks": str(masks), "sources": folder.parent / "sources"}
        options = ScoreOptions(**extras, cache=folder.parent / "cache", workers=0)
        found[name] = score_folder(folder, evaluators, options=options, show_progress=False)
    pd.testing.assert_frame_equal(found["same"], scores)
    subject = SUITE.subjects[0].name
    assert values(found["other"], "dino_subject", subject) != values(scores, "dino_subject", subject)
    assert values(found["other"], "dino", subject) == values(scores, "dino", subject)


def write_alexnet(folder: Path) -> AlexNet:
    """A random one, as torchvision publishes it."""
    torch.manual_seed(0)
    network = alexnet(weights=None).eval()
    for weight in network.features.state_dict().values():
        weight.copy_(torch.randn_like(weight) * 0.05)
    (folder / "lpips-alex").mkdir()
    torch.save(network.state_dict(), folder / "lpips-alex" / ALEXNET_FILE)
    return network


def test_lpips_is_the_papers_formula_at_every_place(tmp_path: Path) -> None:
    network = write_alexnet(tmp_path).features.double()
    first, second = (np.random.default_rng(n).integers(0, 256, (3, 64, 48, 3)).astype(np.uint8) for n in (1, 2))
    heads = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
    wanted = torch.zeros(3, 64, 48, dtype=torch.float64)
    mean, std = (torch.tensor(v).double().view(3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    x, y = ((torch.from_numpy(p).permute(0, 3, 1, 2).double() / 127.5 - 1 - mean) / std for p in (first, second))
    for number, (start, end) in enumerate(((0, 2), (2, 5), (5, 8), (8, 10), (10, 12))):
        with torch.no_grad():
            x, y = network[start:end](x), network[start:end](y)
        apart = (x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)).square()
        part = (apart * heads[f"lin{number}.model.1.weight"].double()).sum(dim=1, keepdim=True)
        wanted += interpolate(part, size=(64, 48), mode="bilinear", align_corners=False)[:, 0]
    distance = load_lpips(WeightsSource(folder=tmp_path))
    found = distance(first, second)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5 * float(wanted.max()))
    np.testing.assert_array_equal(distance(first, first), 0)
    np.testing.assert_allclose(found, distance(second, first), rtol=1e-5)


def test_missing_and_broken_lpips_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("BDKIT_WEIGHTS_DIR", raising=False)
    with pytest.raises(InputError, match="LPIPS needs alexnet") as missing:
        load_lpips()
    assert "\n" not in str(missing.value)
    (tmp_path / "lpips-alex").mkdir()
    for data in (b"not weights", b"PK"):
        (tmp_path / "lpips-alex" / ALEXNET_FILE).write_bytes(data)
        with pytest.raises(InputError, match=r"alexnet-owt-7be5be79\.pth is broken"):
            load_lpips(WeightsSource(folder=tmp_path))


@pytest.mark.weights
def test_lpips_from_files(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_alexnet(tmp_path)
    monkeypatch.setenv("BDKIT_WEIGHTS_DIR", str(tmp_path))
    extras = {"masks": str(folder.parent / "masks"), "sources": folder.parent / "sources"}
    chosen = load_evaluators("mini", metrics=LPIPS_NAMES)
    frame = score_folder(folder, chosen, options=ScoreOptions(**extras, workers=0), show_progress=False)
    for metric in LPIPS_NAMES:
        for subject in SUITE.subjects:
            found = values(frame, metric, subject.name)
            assert len(found) == len(subject_ids(SUITE, METHOD, 0, subject))
            assert min(found) > 0


@pytest.mark.weights
def test_what_is_missing_is_one_line(folder, evaluators, tmp_path, monkeypatch):
    masks = str(folder.parent / "masks")
    for extras, message in (
        ({}, "give the subjects' masks with --masks"),
        ({"masks": masks}, "made from with --sources"),
        ({"masks": str(tmp_path), "sources": tmp_path}, "every image needs its mask"),
        ({"masks": masks, "sources": tmp_path}, "is missing"),
    ):
        with pytest.raises(InputError, match=message) as error:
            score_folder(folder, evaluators, options=ScoreOptions(**extras, workers=0), show_progress=False)
        assert "\n" not in str(error.value)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("BDKIT_WEIGHTS_DIR", raising=False)
    with pytest.raises(InputError, match="LPIPS needs"):
        score_folder(
            folder, load_evaluators("mini", metrics=["diversity_lpips"]), options=ScoreOptions(workers=0),
            show_progress=False,
        )  # fmt: skip
    with pytest.raises(InputError, match="unknown metric 'dinov9'; known are dino"):
        load_evaluators("mini", metrics=["dinov9"])
