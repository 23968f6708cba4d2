"""report.html: what is in it, and that it works in a browser that is offline."""

import itertools
import json
import re
import shutil
import zlib
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_helpers import QUICK_SUITE as SUITE
from eval_helpers import add_images, make_folder, make_scores
from PIL import Image

from bdkit.cli import main
from bdkit.utils.images import encode
from eval.report.gallery import QUALITY
from eval.report.html import interval_bars, make_report
from eval.report.pack import encode_text
from eval.report.summary import title
from eval.report.tables import make_tables, sections
from eval.results_dir import ImageId
from eval.score.images import ImageFile, ImageTree, read_tree

METHODS = ("base", "<b>bold & sharp</b>")
N = 2 * 2 * SUITE.n_images


def data_of(path: Path) -> dict[str, Any]:
    """The page's values and thumbnails, read bit by bit."""
    text = re.search(r'<script type="text/plain" id="pack">(.*?)</script>', path.read_text(), re.DOTALL)
    assert text
    bits = []
    for code in map(ord, text[1]):
        symbols = [code] if code < 128 else [b"\x00\n\r<"[(code - 128) >> 7], (code - 128) & 127]
        bits += [f"{symbol:07b}" for symbol in symbols]
    joined = "".join(bits)
    packed = int(joined + "0" * (-len(joined) % 8), 2).to_bytes(-(-len(joined) // 8))
    start = 4 + int.from_bytes(packed[:4], "little")
    data = json.loads(zlib.decompress(packed[4:start]))
    ends = np.cumsum([start, *data["sizes"]])
    data["thumbnails"] = [packed[one:other] for one, other in itertools.pairwise(ends)]
    return data


def test_every_scored_image_is_there_with_its_scores(out: Path) -> None:
    data = data_of(out / "report.html")
    assert data["embedded"]
    assert {len(column) for column in (*data["images"].values(), *data["scores"])} == {N}
    assert [name for name, _ in data["metrics"]] == ["DINO", "CLIP-I", "CLIP-T"]
    scores = make_scores(("base", "bold"))
    columns = data["images"]
    for place in range(0, N, 5):
        image = {name: column[place] for name, column in columns.items()}
        suite_subject = SUITE.subjects[image["subject"]]
        one = ImageId(
            data["rows"][image["row"]][0], image["seed_set"], suite_subject.name, image["prompt"], image["sample"]
        )
        (prompt,) = (each for each in SUITE.prompts(suite_subject) if each.index == one.prompt)
        assert data["prompts"][image["text"]] == [prompt.text("…"), prompt.kind]
        of_image = scores[(scores[list(asdict(one))] == list(asdict(one).values())).all(axis=1)]
        by_metric = of_image.set_index("metric")["value"]
        values = [column[place] for column in data["scores"]]
        assert values == pytest.approx([by_metric["dino"], by_metric["clip_i"], by_metric["clip_t"]], abs=6e-5)
        as_webp = encode(Image.open(one.path(out)), "WEBP", quality=QUALITY)
        assert data["thumbnails"][image["source"]] == as_webp
        assert image["nearest"] is None  # made-up scores
    assert [len(subject["references"]) for subject in data["subjects"]] == [s.n_references for s in SUITE.subjects]


def test_images_and_the_main_plot_come_first(out: Path) -> None:
    page = (out / "report.html").read_text()
    assert "Scores against seconds are left out" in page
    marks = [
        'class="grid"', 'id="plot-tradeoff"', "<h2>Results", "<h2>Made with", 'id="plot-subjects-dino"', 'id="images"',
    ]  # fmt: skip
    positions = [page.index(mark, page.index("<body>")) for mark in [*marks, 'id="images"']]
    assert positions == sorted(positions)
    first = page[positions[0] : positions[1]]
    assert re.findall(r"<th>(.*?)</th>", first) == ["Reference", "Base model, not personalised", "bold"]
    numbers = [int(number) for number in re.findall(r'data-image="(\d+)"', first)]
    assert len(numbers) == 3 * 6
    assert max(numbers) < len(data_of(out / "report.html")["thumbnails"])


def test_the_file_is_an_eighth_larger_than_what_it_packs() -> None:
    data = np.random.default_rng(0).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    for content in (data, data[:1], b"", bytes(999), b"\r\n<" * 99):
        text = encode_text(content)
        assert not set(text) & set("\x00\n\r<")
        assert len(text.encode()) <= len(content) * 8 / 7 + 2


def test_the_best_method_is_marked_and_bars_span_the_column(out: Path) -> None:
    results = make_tables(out)
    main = sections(results)[0]
    bars = interval_bars(results, main)
    for column, metric in enumerate(("dino", "clip_i", "clip_t"), start=1):
        best = [main.lines[line][0] for (line, place), bar in bars.items() if place == column and bar["best"]]
        assert best == [title(max(("base", "bold"), key=lambda row: results.estimates[row, metric].mean))]
        of_column = [bar for (_, place), bar in bars.items() if place == column]
        assert min(bar["low"] for bar in of_column) == 0
        assert max(bar["high"] for bar in of_column) == 100


def test_more_images_than_fit_are_linked(out: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(out, tmp_path / "results folder")
    make_report(folder, make_tables(folder), embed_at_most=N - 1, show_progress=False)
    data = data_of(folder / "report.html")
    assert not data["embedded"]
    sources = data["images"]["source"]
    assert all((folder / source).is_file() for source in sources)
    assert len(set(sources)) == N
    assert "keep this file in its results folder" in (folder / "report.html").read_text()
    assert (folder / "report.html").stat().st_size < (out / "report.html").stat().st_size


def test_images_of_another_program_are_found(out: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "scores", make_scores(("base", "bold")))
    shutil.copytree(out / "references", folder / "references")
    own = read_tree(out, SUITE, "x")
    elsewhere = tuple(image for image in own.images if image.id.method == "base")
    make_report(folder, make_tables(folder), tree=ImageTree(out, elsewhere), show_progress=False)
    data = data_of(folder / "report.html")
    assert len(data["images"]["source"]) == data["absent"] == N // 2
    assert not (folder / "grid.png").exists()
    assert f"{N // 2} scored images are missing" in (folder / "report.html").read_text()


def test_command_makes_it_from_finished_scores(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(tmp_path / "scores", make_scores(("base", "bold")))
    shutil.copytree(out / "references", folder / "references")
    assert main(["report", str(folder), "--images", str(out), "--embed", "0", "--published"]) == 0
    assert "opens in any browser" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert "<h2>Published results</h2>" in page
    assert "copied, protocol unknown" in page
    sources = data_of(folder / "report.html")["images"]["source"]
    assert len(sources) == N
    assert all((folder / source).resolve().is_relative_to(out.resolve()) for source in sources)


def test_missing_images_leave_a_gap_not_a_crash(tmp_path: Path) -> None:
    add_images(tmp_path, ("base",))
    first = next((tmp_path / "images" / "seed0" / "base" / "dog").iterdir())
    first.unlink()
    scores = make_scores(("base",))
    there = read_tree(tmp_path, SUITE, "x").images
    kept = {astuple(p.id) for p in there}
    keys = zip(*(scores[name] for name in ("method", "seed_set", "subject", "prompt", "sample")), strict=True)
    scores = scores[[key in kept or key[3] == -1 for key in keys]]
    make_folder(tmp_path, scores, allow_missing=True)
    make_report(tmp_path, make_tables(tmp_path), show_progress=False)
    assert len(data_of(tmp_path / "report.html")["images"]["source"]) == N // 2 - 1
    assert f"{N // 2 - 1}/{N // 2} images" in (tmp_path / "report.html").read_text()


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    """A manifest may name a method anything."""
    make_folder(tmp_path, make_scores(METHODS))
    add_images(tmp_path, ("base",))
    images = [
        ImageFile(image.path, replace(image.id, method=method))
        for method in METHODS
        for image in read_tree(tmp_path, SUITE, "x").images
    ]
    make_report(tmp_path, make_tables(tmp_path), tree=ImageTree(tmp_path, tuple(images)), show_progress=False)
    page = (tmp_path / "report.html").read_text()
    assert "<b>bold" not in page
    titles = [row[1] for row in data_of(tmp_path / "report.html")["rows"]]
    assert titles == [METHODS[1], "Base model, not personalised"]
