"""PIE-Bench's metrics on a made-up folder, against plain float64 formulas of the published code."""

import math
from itertools import pairwise
from pathlib import Path

import lpips
import numpy as np
import pandas as pd
import pytest
import torch
from edit_folders import KINDS, RUNS, SIDE, edited, pie_paths, write_edits, write_pie_bench
from eval_helpers import SIDE as CLIP_SIDE
from eval_helpers import TinyEncoder, word_vector
from PIL import Image
from skimage.metrics import structural_similarity
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.functional import interpolate
from torchvision.models import squeezenet1_1

from eval.score.editing import background
from eval.score.editing.pie_bench import METRICS, PieBench, decode_mask, read_cases, with_border
from eval.score.editing.score import EditScoreOptions, score_edits
from eval.score.editing.structure import StructureEncoder
from eval.score.masks import SQUEEZENET_FILE, load_lpips
from eval.score.weights import WeightsSource

CUTS = (0, 2, 5, 8, 10, 11, 12, 13)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(3)
    network = VisionTransformer(
        img_size=224, patch_size=32, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2, num_classes=0
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)  # its start is so small that all tokens look alike
    return network


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(4)
    network = squeezenet1_1()
    (folder / "lpips-squeeze").mkdir()
    torch.save(network.state_dict(), folder / "lpips-squeeze" / SQUEEZENET_FILE)
    return network.features.double().eval(), folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pie")
    return write_pie_bench(root / "data"), write_edits(root / "data", root / "output")


@pytest.fixture(scope="module")
def benchmark(folders, vit, squeezenet) -> PieBench:
    source = WeightsSource(folder=squeezenet[1])
    both = tuple(load_lpips(source, net="squeeze", spatial=spatial) for spatial in (False, True))
    structure = StructureEncoder(vit, {"file": "tiny", "sha256": "3"})
    return PieBench(read_cases(folders[0]), METRICS, clip=TinyEncoder(5), structure=structure, perceptual=both)


@pytest.fixture(scope="module")
def frame(benchmark, folders, tmp_path_factory) -> pd.DataFrame:
    return score_edits(benchmark, folders[1], tmp_path_factory.mktemp("out"), show_progress=False)


def values(frame: pd.DataFrame, method: str, metric: str) -> list[float]:
    return frame[(frame["method"] == method) & (frame["metric"] == metric)]["value"].tolist()


def pairs(folders: tuple[Path, Path]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Source, edited image and framed mask of every image, (64, 64, 3) float64 0..255 and (64, 64, 1) of 0 and 1."""
    found = []
    for number, (key, path) in enumerate(pie_paths().items()):
        with Image.open(folders[0] / "annotation_images" / path) as image:
            source = image.convert("RGB")
        mask = [0.0] * (SIDE * SIDE)
        for start, length in zip(RUNS[key][::2], RUNS[key][1::2], strict=True):
            for position in range(start, min(start + length, SIDE * SIDE)):
                mask[position] = 1.0
        for position in range(SIDE * SIDE):
            row, column = divmod(position, SIDE)
            if row in (0, SIDE - 1) or column in (0, SIDE - 1):
                mask[position] = 1.0
        framed = np.array(mask).reshape(SIDE, SIDE, 1)
        found.append((np.asarray(source, float), np.asarray(edited(source, number), float), framed))
    return found


def test_every_image_and_metric_has_a_row(frame: pd.DataFrame) -> None:
    assert len(frame) == 2 * len(KINDS) * len(METRICS)
    assert frame["method"].unique().tolist() == ["ours", "strips"]
    assert set(frame["protocol"]) == {"pie-bench"}
    assert frame["kind"].unique().tolist() == ["1", "8", "9"]


def test_the_last_square_of_a_published_strip_is_scored(frame: pd.DataFrame) -> None:
    for metric in METRICS:
        np.testing.assert_array_equal(values(frame, "ours", metric), values(frame, "strips", metric))


def test_pixels_are_the_published_formulas(frame, folders) -> None:
    wanted: dict[str, list[float]] = {"mse": [], "psnr": [], "ssim": []}
    for source, image, mask in pairs(folders):
        if (1 - mask).sum() == 0:
            wanted = {name: [*numbers, math.nan] for name, numbers in wanted.items()}
            continue
        first, second = source / 255 * (1 - mask), image / 255 * (1 - mask)
        error = ((first - second) ** 2).mean()
        wanted["mse"].append(error)
        wanted["psnr"].append(10 * math.log10(1 / error))
        wanted["ssim"].append(
            structural_similarity(
                first, second, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False,
            )
        )  # fmt: skip
    for name, numbers in wanted.items():
        np.testing.assert_allclose(values(frame, "ours", f"{name}_unedit_part"), numbers, rtol=2e-6)
    assert math.isnan(wanted["mse"][2])


def test_torchmetrics_agrees_where_it_is_installed(folders) -> None:
    image_metrics = pytest.importorskip("torchmetrics.functional.image")
    source, image, mask = pairs(folders)[0]
    first, second = (
        torch.tensor(pixels / 255 * (1 - mask)).permute(2, 0, 1)[None].float() for pixels in (source, image)
    )
    kept = mask[..., 0] == 0
    blanked = [background.blank(pixels.astype(np.uint8), kept) for pixels in (source, image)]
    psnr = image_metrics.peak_signal_noise_ratio(second, first, data_range=1.0)
    assert background.psnr(background.mean_squared_error(*blanked)) == pytest.approx(float(psnr), rel=1e-5)
    _, full = image_metrics.structural_similarity_index_measure(second, first, data_range=1.0, return_full_image=True)
    assert background.ssim(*blanked) == pytest.approx(float(full[..., 5:-5, 5:-5].mean()), rel=1e-5)


def test_mended_pixels_count_the_background_alone(frame, folders) -> None:
    errors, similarities = [], []
    for source, image, mask in pairs(folders):
        outside = mask[..., 0] == 0
        if not outside.any():
            errors.append(math.nan)
            similarities.append(math.nan)
            continue
        errors.append((((source - image) / 255) ** 2)[outside].mean())
        pasted = np.where(outside[..., None], image, source)
        _, full = structural_similarity(
            pasted, source, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        similarities.append(full.mean(axis=2)[outside].mean())
    np.testing.assert_allclose(values(frame, "ours", "mse_unedit_part_mended"), errors, rtol=2e-6)
    np.testing.assert_allclose(values(frame, "ours", "psnr_unedit_part_mended"), -10 * np.log10(errors), rtol=2e-6)
    np.testing.assert_allclose(values(frame, "ours", "ssim_unedit_part_mended"), similarities, rtol=2e-6)
    published = np.array(values(frame, "ours", "psnr_unedit_part"))[[0, 1, 3]]
    assert (published > -10 * np.log10(np.array(errors)[[0, 1, 3]])).all(), "zeros inside the mask count as kept"


def test_lpips_is_the_papers_formula_with_squeezenet(frame, folders, squeezenet) -> None:
    heads = torch.load(Path(lpips.__file__).parent / "weights/v0.1/squeeze.pth", map_location="cpu", weights_only=True)
    shift, scale = (torch.tensor(v).double().view(3, 1, 1) for v in ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))
    published, mended = [], []
    for source, image, mask in pairs(folders):
        if (1 - mask).sum() == 0:
            published.append(math.nan)
            mended.append(math.nan)
            continue
        for values_of, one, two in (
            (published, source * (1 - mask), image * (1 - mask)),
            (mended, source, np.where(mask == 0, image, source)),
        ):
            x, y = ((torch.tensor(p / 255 * 2 - 1).permute(2, 0, 1)[None] - shift) / scale for p in (one, two))
            total, places = 0.0, torch.zeros(SIDE, SIDE, dtype=torch.float64)
            for number, (start, end) in enumerate(pairwise(CUTS)):
                with torch.no_grad():
                    x, y = squeezenet[0][start:end](x), squeezenet[0][start:end](y)
                unit = [z / (z.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for z in (x, y)]
                apart = (unit[0] - unit[1]).square()
                part = (apart * heads[f"lin{number}.model.1.weight"].double()).sum(dim=1, keepdim=True)
                total += float(part.mean())
                places += interpolate(part, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0, 0]
            values_of.append(total if values_of is published else float(places.numpy()[mask[..., 0] == 0].mean()))
    np.testing.assert_allclose(values(frame, "ours", "lpips_unedit_part"), published, rtol=1e-4)
    np.testing.assert_allclose(values(frame, "ours", "lpips_unedit_part_mended"), mended, rtol=1e-4)


def keys(vit: nn.Module, image: np.ndarray, mended: bool) -> torch.Tensor:
    """(t, h d) float64 keys of the last block, as the published code shapes them."""
    pixels = torch.tensor(image / 255 if mended else image).permute(2, 0, 1)[None]
    pixels = interpolate(pixels, size=(224, 224), mode="bilinear", align_corners=False, antialias=mended)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        tokens = vit.patch_embed((pixels - mean) / std)
        tokens = torch.cat([vit.cls_token, tokens], dim=1) + vit.pos_embed
        for block in list(vit.blocks)[:-1]:
            tokens = block(tokens)
        qkv = vit.blocks[-1].attn.qkv(vit.blocks[-1].norm1(tokens))
    heads = qkv.reshape(50, 3, 3, 8).permute(1, 2, 0, 3)[1]
    return heads.transpose(0, 1).reshape(50, 24)


def test_structure_distance_is_the_published_one_with_its_quirk(frame, folders, vit) -> None:
    double = VisionTransformer(
        img_size=224, patch_size=32, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2, num_classes=0
    )
    double.load_state_dict(vit.state_dict())
    double.double().eval()
    found = {}
    for mended in (False, True):
        wanted = []
        for source, image, _ in pairs(folders):
            similarities = []
            for pixels in (source, image):
                rows = keys(double, pixels, mended)
                norms = rows.norm(dim=1)
                similarities.append((rows @ rows.T) / (norms[:, None] * norms[None]).clamp(min=1e-8))
            wanted.append(float((similarities[0] - similarities[1]).square().mean()))
        name = "structure_distance_mended" if mended else "structure_distance"
        found[mended] = values(frame, "ours", name)
        np.testing.assert_allclose(found[mended], wanted, rtol=1e-3)
        assert min(wanted) > 1e-6
    assert (np.abs(np.array(found[False]) / np.array(found[True]) - 1) > 0.05).all()


def test_clip_is_100_cosines_on_whole_and_blanked_images(frame, folders, benchmark) -> None:
    network = benchmark.clip.network
    grey = np.array([0.0, 0.0, 0.0])  # what the tiny encoder's mean of 0 stands for

    def embed(pixels: np.ndarray) -> np.ndarray:
        small = Image.fromarray(pixels.astype(np.uint8)).resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.BICUBIC)
        with torch.no_grad():
            row = network(torch.tensor(np.asarray(small) / 255).permute(2, 0, 1)[None].float())[0].double().numpy()
        return row / np.linalg.norm(row)

    def text(words: str) -> np.ndarray:
        row = sum(word_vector(word, benchmark.clip.size) for word in words.split()).double().numpy()
        return row / np.linalg.norm(row)

    for number, (source, image, mask) in enumerate(pairs(folders)):
        after = text(f"a square cake on table {number}")
        raw = decode_mask(RUNS[list(RUNS)[number]], (SIDE, SIDE))[..., None]
        wanted = {
            "clip_similarity_source_image": max(100 * embed(source) @ text("a round cake on a table"), 0),
            "clip_similarity_target_image": max(100 * embed(image) @ after, 0),
            "clip_similarity_target_image_edit_part": max(100 * embed(image * mask) @ after, 0),
            "clip_similarity_target_image_edit_part_mended": (
                100 * embed(np.where(raw, image, grey)) @ after if raw.any() else math.nan
            ),
        }
        for name, value in wanted.items():
            np.testing.assert_allclose(values(frame, "ours", name)[number], value, atol=2e-4, err_msg=name)
    assert math.isnan(values(frame, "ours", "clip_similarity_target_image_edit_part_mended")[1])
    assert not math.isnan(values(frame, "ours", "clip_similarity_target_image_edit_part")[1]), "its border is in it"


def test_an_untouched_background_is_infinitely_near(folders, tmp_path) -> None:
    cases = read_cases(folders[0])[:1]
    chosen = {name: METRICS[name] for name in ("psnr_unedit_part", "mse_unedit_part", "ssim_unedit_part")}
    target = tmp_path / "same" / f"{cases[0].name}.png"
    target.parent.mkdir(parents=True)
    Image.open(cases[0].source).save(target)
    frame = score_edits(PieBench(cases, chosen), tmp_path, tmp_path / "out", show_progress=False)
    assert frame["value"].tolist() == [math.inf, 0.0, 1.0]
    assert ",inf,pie-bench" in (tmp_path / "out" / "scores.csv").read_text()


def test_masks_are_decoded_as_published() -> None:
    mask = decode_mask([3, 4, 10, 99, 50, 2], (3, 4))
    assert mask.astype(int).tolist() == [[0, 0, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1]]
    assert with_border(np.zeros((4, 5), dtype=bool)).sum() == 14
    untouched = np.zeros((4, 5), dtype=bool)
    with_border(untouched)
    assert not untouched.any()


def test_values_come_from_the_cache_and_only_for_the_same_files(folders, tmp_path, monkeypatch) -> None:
    benchmark = PieBench(read_cases(folders[0]), {"mse_unedit_part": METRICS["mse_unedit_part"]})
    options = EditScoreOptions(cache=tmp_path / "cache")
    first = score_edits(benchmark, folders[1], tmp_path / "a", options, show_progress=False)
    n_calls = []
    values_of = PieBench.values
    monkeypatch.setattr(PieBench, "values", lambda *a: n_calls.append(1) or values_of(*a))
    second = score_edits(benchmark, folders[1], tmp_path / "b", options, show_progress=False)
    assert n_calls == []
    pd.testing.assert_frame_equal(first, second)
    assert (tmp_path / "a/scores.csv").read_bytes() == (tmp_path / "b/scores.csv").read_bytes()
    other = tmp_path / "images"
    write_edits(folders[0], other)
    path = (other / "ours" / pie_paths()["000"]).with_suffix(".png")
    edited(Image.open(path).convert("RGB"), 77).save(path)
    score_edits(benchmark, other, tmp_path / "c", options, show_progress=False)
    assert len(n_calls) == 1
