"""DreamEditBench's metrics on a made-up folder, against plain loops over pairs of images."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from edit_folders import BOXES, SUBJECTS, picture, save, write_dreameditbench, write_swaps
from eval_helpers import exact_evaluators
from PIL import Image

from bdkit.utils.errors import InputError
from eval.score.editing.dreameditbench import METRICS, DreamEditBench, geometric_mean, read_cases
from eval.score.editing.score import score_edits
from eval.score.masks import mean_colour

ENCODERS = exact_evaluators().encoders
FILL = np.array(mean_colour(ENCODERS["dino"].how), dtype=float)
TASKS = ("replacement", "addition")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("dreamedit")
    return write_dreameditbench(root / "bench", root / "photos"), root / "photos", write_swaps(root / "swaps")


def benchmark(folders: tuple[Path, Path, Path], **more: str) -> DreamEditBench:
    return DreamEditBench(read_cases(*folders[:2]), METRICS, dino=ENCODERS["dino"], clip=ENCODERS["clip"], **more)


@pytest.fixture(scope="module")
def frame(folders, tmp_path_factory) -> pd.DataFrame:
    return score_edits(benchmark(folders), folders[2], tmp_path_factory.mktemp("out"), show_progress=False)


def row(name: str, image: Image.Image) -> np.ndarray:
    vector = ENCODERS[name].embed_images([image])[0].astype(float)
    return vector / math.sqrt((vector**2).sum())


@cache
def row_of_file(name: str, path: Path) -> np.ndarray:
    return row(name, squashed(path))


def squashed(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB").resize((512, 512))


def value(frame: pd.DataFrame, image: str, metric: str) -> float:
    return frame[(frame["image"] == image) & (frame["metric"] == metric)]["value"].item()


def blanked(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """Only what is white on the mask."""
    return Image.fromarray(np.where(mask[..., None], np.asarray(image), FILL).astype(np.uint8))


def test_the_cases_are_the_published_ones(folders) -> None:
    cases = read_cases(*folders[:2])
    assert [case.name for case in cases[:2]] == ["replacement/can/found0", "replacement/can/found1"]
    assert len(cases) == 2 * len(SUBJECTS) * 2
    by_name = {case.name: case for case in cases}
    assert by_name["addition/cat2/found0"].source.parts[-2:] == ("cat", "found0.jpg"), "cats share their sources"
    assert by_name["addition/cat2/found0"].references[0].parts[-2:] == ("cat2", "00.jpg")
    assert by_name["addition/cat2/found0"].box == tuple(BOXES["found0.jpg"])
    assert by_name["replacement/cat2/found0"].box is None


def test_published_metrics_are_means_over_pairs_of_whole_images(frame, folders) -> None:
    bench, photos, swaps = folders
    for task in TASKS:
        for subject, (place, _) in SUBJECTS.items():
            for number in range(2):
                edited = swaps / "ours" / task / subject / f"found{number}.png"
                source = bench / "data" / f"{task}_source" / place / f"found{number}.jpg"
                case, kept = f"{task}/{subject}/found{number}", {}
                for name, metric in (("dino", "dino"), ("clip", "clip_i")):
                    total = 0.0
                    for photo in sorted((photos / subject).iterdir()):
                        total += float((row_of_file(name, photo) * row_of_file(name, edited)).sum())
                    kept[f"{metric}_sub"] = total / 2
                    kept[f"{metric}_back"] = float((row_of_file(name, source) * row_of_file(name, edited)).sum())
                parts = [kept["dino_sub"], kept["clip_i_sub"], kept["dino_back"], kept["dino_back"]]
                kept["overall"] = np.prod([part if part >= 0 else 0.001 for part in parts]) ** 0.25
                for metric, wanted in kept.items():
                    np.testing.assert_allclose(value(frame, case, metric), wanted, atol=2e-6, err_msg=metric)


def test_mended_metrics_look_at_the_box_and_around_it(frame, folders) -> None:
    bench, photos, swaps = folders
    image = squashed(swaps / "ours/addition/cat/found0.png")
    source = squashed(bench / "data/addition_source/cat/found0.jpg")
    left, top, right, bottom = BOXES["found0.jpg"]
    mask = np.zeros((512, 512), dtype=bool)
    mask[top:bottom, left:right] = True
    part, around, original = blanked(image, mask), blanked(image, ~mask), blanked(source, ~mask)
    for name, metric in (("dino", "dino"), ("clip", "clip_i")):
        subject = [float(row(name, squashed(p)) @ row(name, part)) for p in sorted((photos / "cat").iterdir())]
        found = value(frame, "addition/cat/found0", f"{metric}_sub_mended")
        np.testing.assert_allclose(found, sum(subject) / 2, atol=2e-6)
        found = value(frame, "addition/cat/found0", f"{metric}_back_mended")
        np.testing.assert_allclose(found, float(row(name, original) @ row(name, around)), atol=2e-6)


def test_what_is_not_defined_is_nan(frame) -> None:
    assert math.isnan(value(frame, "replacement/can/found0", "dino_sub_mended")), "nothing says where"
    assert math.isnan(value(frame, "replacement/can/found0", "overall_mended"))
    assert math.isnan(value(frame, "addition/can/found1", "clip_i_back_mended")), "its box leaves no background"
    assert not math.isnan(value(frame, "addition/can/found1", "clip_i_sub_mended"))
    assert frame[~frame["metric"].str.endswith("_mended")]["value"].notna().all()


def test_masks_say_where_the_subject_is(folders, tmp_path) -> None:
    masks, case = tmp_path / "masks", "replacement/can/found0"
    chosen = benchmark(folders, masks=str(masks))
    chosen.cases = [one for one in chosen.cases if one.name == case]
    swaps = tmp_path / "swaps"
    save(picture(1, 96), swaps / "ours" / f"{case}.png")
    with pytest.raises(InputError, match="every edited image needs its mask there"):
        score_edits(chosen, swaps, tmp_path / "out", show_progress=False)
    pixels = np.zeros((96, 96), np.uint8)
    pixels[10:50, 20:60] = 255
    save(Image.fromarray(pixels), masks / "ours" / f"{case}.png")
    reference = np.zeros((70, 70), np.uint8)
    reference[:35] = 255
    save(Image.fromarray(reference), masks / "references/can/00.png")
    frame = score_edits(chosen, swaps, tmp_path / "out", show_progress=False)
    mask = np.asarray(Image.fromarray(pixels).resize((512, 512), Image.Resampling.NEAREST)) > 0
    part = row("dino", blanked(squashed(swaps / "ours" / f"{case}.png"), mask))
    with Image.open(folders[1] / "can/00.jpg") as image:
        half = blanked(image.convert("RGB"), reference > 0).resize((512, 512))
    wanted = (row("dino", half) @ part + row("dino", squashed(folders[1] / "can/01.jpg")) @ part) / 2
    np.testing.assert_allclose(value(frame, case, "dino_sub_mended"), wanted, atol=2e-6)


def test_geometric_mean_has_the_published_floor() -> None:
    assert geometric_mean([0.5, 0.5, 0.5, 0.5]) == pytest.approx(0.5)
    assert geometric_mean([1.0, 1.0, -3.0, 0.001]) == pytest.approx((0.001 * 0.001) ** 0.25)
    assert math.isnan(geometric_mean([1.0, math.nan]))


def test_a_task_that_a_method_has_no_folder_for_is_not_expected(folders, tmp_path) -> None:
    frame = score_edits(
        benchmark(folders), write_swaps(tmp_path / "swaps", ("addition",)), tmp_path / "out", show_progress=False
    )
    assert frame["kind"].unique().tolist() == ["addition"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"found0.jpg": [100, 150, 300, 420]}', "has no box for found1.jpg"),
        ('{"found0.jpg": [300, 150, 100, 420]}', "the box of 'found0.jpg' is not left, top, right, bottom"),
        ('{"found0.jpg": "left"}', "the box of 'found0.jpg' is not left, top, right, bottom"),
        ("{", "not readable JSON"),
    ],
)
def test_bad_boxes_are_one_line(folders, tmp_path, text, message) -> None:
    bench = write_dreameditbench(tmp_path / "bench", tmp_path / "photos")
    (bench / "data/addition_source/can/bbox.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_cases(bench, tmp_path / "photos")
    assert "\n" not in str(error.value)


def test_other_folders_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="give DreamEditBench's folder"):
        read_cases(tmp_path, tmp_path)
    bench = write_dreameditbench(tmp_path / "bench", tmp_path / "photos")
    with pytest.raises(InputError, match="is not a folder"):
        read_cases(bench, tmp_path / "bench")
