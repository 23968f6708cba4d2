"""Images of any program: trees, manifests, everything that can be wrong with them, and the protocols' rules."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eval_helpers import PHOTO_SUITE as SUITE
from eval_helpers import draw, draw_manifest, draw_tree, suite_keys
from eval_helpers import exact_evaluators as evaluators
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from eval.report.tables import markdown, summarise
from eval.results_dir import REAL, REAL_WITH_SELF, save_suite
from eval.score.features import Features
from eval.score.images import ImageTree, read_images, read_manifest
from eval.score.protocols import find_protocol
from eval.score.score import ScoreOptions, score_images

N_REFERENCES = sum(subject.n_references for subject in SUITE.subjects)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, subject in enumerate(SUITE.subjects):
        for index in range(subject.n_references):
            draw(tmp_path / "photos" / subject.name / f"{index:02d}.jpg", 1000 + 10 * number + index, (50, 60))
    return tmp_path / "photos"


def score(found: ImageTree, photos: Path, out: Path, protocol: str = "dreambench", **options: object) -> pd.DataFrame:
    given = {"photos": photos, "options": ScoreOptions(**options), "show_progress": False}
    return score_images(found, SUITE, evaluators(protocol), out, **given)


def values(frame: pd.DataFrame, method: str, metric: str) -> pd.Series:
    part = frame[(frame["method"] == method) & (frame["metric"] == metric)]
    return part.set_index(["subject", "prompt", "sample"])["value"]


def test_a_manifest_scores_as_the_tree_does(tmp_path: Path, photos: Path) -> None:
    found = read_manifest(draw_manifest(tmp_path), tmp_path / "flat")
    one = score(found, photos, tmp_path / "one")
    other = score(read_images(draw_tree(tmp_path / "any"), SUITE), photos, tmp_path / "other")
    pd.testing.assert_frame_equal(one, other)
    assert (tmp_path / "one/scores.csv").read_bytes() == (tmp_path / "other/scores.csv").read_bytes()


def test_everything_that_is_wrong_is_listed_before_scoring(tmp_path: Path, photos: Path) -> None:
    root = draw_tree(tmp_path / "mine")
    first, second = SUITE.subjects[0].name, SUITE.subjects[1].name
    a, b, c = (f"{SUITE.prompts(SUITE.subjects[0])[n].index:02d}" for n in range(3))
    (root / first / f"{a}-0.png").unlink()
    (root / first / f"{b}-0.png").write_bytes((root / first / f"{b}-0.png").read_bytes()[:200])
    draw(root / first / f"{a}-7.png", 70)
    draw(root / first / "notes.png", 71)
    draw(root / "unicorn" / "00-0.png", 72)
    draw(root / first / f"{c}-0.jpg", 73)
    (root / second / f"{a}-1.png").write_bytes((root / second / f"{a}-0.png").read_bytes())
    (root / first / f"{c}-1.png").write_bytes((photos / first / "00.jpg").read_bytes())
    found = read_images(root, SUITE)
    with pytest.raises(InputError) as caught:
        score(found, photos, tmp_path / "out")
    text = str(caught.value)
    assert "\n" not in text
    wrong = ("are missing", "have a place that", "cannot be read")
    assert all(words in text for words in ("3 images have no place", *(f"1 images {words}" for words in wrong)))
    assert not (tmp_path / "out/scores.csv").exists()
    problems = pd.read_csv(tmp_path / "out/problems.csv").groupby("kind")["path"].apply(sorted)
    assert problems["missing"] == [f"seed0/mine/{first}/{a}-0.png"]
    assert problems["surplus"] == [f"{first}/{a}-7.png", f"{first}/notes.png", "unicorn/00-0.png"]
    assert (problems["duplicate"], problems["unreadable"]) == ([f"{first}/{c}-0.png"], [f"{first}/{b}-0.png"])
    assert problems["same content"] == sorted([f"{second}/{a}-1.png", f"{first}/{c}-1.png"])


def test_fewer_images_only_when_they_are_allowed(tmp_path: Path, photos: Path) -> None:
    root = draw_tree(tmp_path / "mine")
    whole = values(score(read_images(root, SUITE), photos, tmp_path / "whole"), "mine", "dino")
    name = SUITE.subjects[0].name
    (root / name / "00-0.png").unlink()
    (root / name / "00-1.png").write_bytes(b"broken")
    draw(root / "extra.png", 5)
    found = read_images(root, SUITE)
    with pytest.raises(InputError, match="1 images are missing"):
        score(found, photos, tmp_path / "out")
    with pytest.raises(InputError, match=r"have no place in the suite .*--ignore-surplus"):
        score(found, photos, tmp_path / "out", allow_missing=True)
    with pytest.warns(UserWarning, match="1 images are missing, 1 images have no place"):
        frame = score(found, photos, tmp_path / "out", allow_missing=True, ignore_surplus=True)
    part = values(frame, "mine", "dino")
    pd.testing.assert_series_equal(part, whole.drop([(name, 0, 0), (name, 0, 1)]))
    scoring = json.loads((tmp_path / "out/run.json").read_text())["scoring"]
    assert scoring["images"] == {"mine": {"scored": len(whole) - 2, "expected": len(whole)}}
    assert scoring["allow_missing"] is True


BAD = {
    "truncated": (lambda path, data: path.write_bytes(data[: len(data) // 2]), "is not a readable image"),
    "empty": (lambda path, data: path.write_bytes(b""), "is not a readable image"),
    "cut in its last row": (lambda path, data: path.write_bytes(data[:-30]), "is not a readable image"),
    "junk": (lambda path, data: path.write_bytes(b"\x89PNG junk"), "is not a readable image"),
    "strip": (lambda path, data: Image.new("RGB", (10, 1)).save(path), "is a strip of 10 x 1"),
    "huge": (lambda path, data: Image.new("1", (9000, 9000)).save(path), "more than 64 million pixels"),
}
GOOD = {
    "rgba": lambda image: image.convert("RGBA"),
    "grey": lambda image: image.convert("L"),
    "16-bit": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257),
    "palette": lambda image: image.convert("P"),
    "grey with alpha": lambda image: image.convert("LA"),
}


@pytest.mark.parametrize("kind", BAD)
def test_images_that_cannot_be_scored_are_named(tmp_path: Path, photos: Path, kind: str) -> None:
    root = draw_tree(tmp_path / "mine")
    path = root / SUITE.subjects[0].name / "00-0.png"
    spoil, words = BAD[kind]
    spoil(path, path.read_bytes())
    with pytest.raises(InputError, match=words):
        score(read_images(root, SUITE), photos, tmp_path / "out")
    assert "00-0.png" in (tmp_path / "out/problems.csv").read_text()


@pytest.mark.parametrize("kind", [*GOOD, "cmyk", "rotated"])
def test_unusual_images_score_as_what_they_show(tmp_path: Path, photos: Path, kind: str) -> None:
    name = SUITE.subjects[0].name
    scored = []
    for folder in ("as it is", "converted"):
        root = draw_tree(tmp_path / folder / "mine")
        path = root / name / "00-0.png"
        if kind == "cmyk":
            read_image(path).convert("CMYK").save(path, "JPEG", quality=100)
        elif kind == "rotated":
            exif = Image.Exif()
            exif[0x0112] = 6
            read_image(path).save(path, exif=exif)
        else:
            GOOD[kind](read_image(path)).save(path)
        if folder == "converted":
            shown = read_image(path)
            shown.save(path, "PNG")
        scored.append(values(score(read_images(root, SUITE), photos, tmp_path / folder / "out"), "mine", "dino"))
    pd.testing.assert_series_equal(*scored)


def test_copies_of_the_references_are_seen_without_being_asked_for(tmp_path: Path, photos: Path) -> None:
    draw_tree(tmp_path / "mine" / "honest")
    for seed, (subject, prompt, sample) in enumerate(suite_keys()):
        copy = read_image(photos / subject / f"{seed % 3:02d}.jpg")
        copy.putpixel((3, 3), (seed, 255, 0))  # other bytes, as good as the same image
        path = tmp_path / "mine" / "copier" / subject / f"{prompt:02d}-{sample}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        copy.save(path)
    save_suite(SUITE, tmp_path / "out")
    frame = score(read_images(tmp_path / "mine", SUITE), photos, tmp_path / "out")
    assert values(frame, "copier", "copied").eq(1).all()
    assert values(frame, "honest", "copied").mean() < 0.5
    assert values(frame, REAL, "copied").eq(0).all()
    assert values(frame, "copier", "dino").mean() > values(frame, "honest", "dino").mean()
    text = markdown(summarise(tmp_path / "out"))
    assert "WARNING, copies of the input: copier (100%)" in text


def test_a_network_that_gives_no_numbers_is_named(tmp_path: Path, photos: Path) -> None:
    networks = evaluators()
    networks.encoders["dino"].network[-1].weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="the weights of 'dino' give no numbers for an image: damaged") as caught:
        score_images(
            read_images(draw_tree(tmp_path / "mine"), SUITE), SUITE, networks, tmp_path / "out", photos=photos,
            options=ScoreOptions(cache=tmp_path / "cache"), show_progress=False,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/scores.csv").exists()
    key = networks.encoders["dino"].key
    assert not list((tmp_path / "cache" / key).glob("*.safetensors"))


def test_an_unreadable_reference_is_never_allowed(tmp_path: Path, photos: Path) -> None:
    (photos / SUITE.subjects[0].name / "01.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"01\.jpg is not a readable image"):
        score(read_images(draw_tree(tmp_path / "mine"), SUITE), photos, tmp_path / "out", allow_missing=True)


def test_one_reference_is_the_manifests_or_the_first(tmp_path: Path, photos: Path) -> None:
    everything = read_manifest(draw_manifest(tmp_path), tmp_path / "flat")
    networks = evaluators()
    subject = SUITE.subjects[0]
    paths = sorted((photos / subject.name).iterdir())
    vectors = networks.encoders["dino"].embed_images([read_image(path) for path in paths]).astype(np.float64)
    image = next(image for image in everything.images if image.id.subject == subject.name)
    own = networks.encoders["dino"].embed_images([read_image(image.path)])[0].astype(np.float64)
    for reference, index in ((None, 0), ("2", 2), ("03", 3), ("01.jpg", 1)):
        images = tuple(replace(one, reference=reference) for one in everything.images)
        frame = score(ImageTree(everything.root, images), photos, tmp_path / "out", "one-reference")
        found = values(frame, "any", "dino")[subject.name, image.id.prompt, image.id.sample]
        assert found == pytest.approx(float(own @ vectors[index]), abs=1e-6)
    # the first photo has nothing but itself to be compared with
    assert set(values(frame, REAL, "dino").loc[subject.name].index.get_level_values("sample")) == {1, 2, 3, 4, 5}
    assert values(frame, REAL_WITH_SELF, "dino")[subject.name, -1, 0] == pytest.approx(1, abs=1e-6)
    wrong = tuple(replace(one, reference="nine") for one in everything.images)
    with pytest.raises(InputError, match="names the reference 'nine'"):
        score(ImageTree(everything.root, wrong), photos, tmp_path / "out", "one-reference")


def test_a_random_reference_is_one_of_them_and_always_the_same(tmp_path: Path, photos: Path) -> None:
    found = read_images(draw_tree(tmp_path / "mine"), SUITE)
    frame = score(found, photos, tmp_path / "out", "random-reference")
    pd.testing.assert_frame_equal(frame, score(found, photos, tmp_path / "again", "random-reference"))
    encoder = evaluators().encoders["dino"]
    chosen = set()
    for image in found.images:
        paths = sorted((photos / image.id.subject).iterdir())
        cosines = (
            encoder.embed_images([read_image(image.path)]) @ encoder.embed_images([read_image(p) for p in paths]).T
        )
        value = values(frame, "mine", "dino")[image.id.subject, image.id.prompt, image.id.sample]
        assert np.abs(cosines[0] - value).min() < 1e-6
        chosen.add(int(np.abs(cosines[0] - value).argmin()))
    assert len(chosen) > 1


def test_texts_and_factors_of_clip_t(tmp_path: Path, photos: Path) -> None:
    found = read_images(draw_tree(tmp_path / "mine"), SUITE)
    cosines = values(score(found, photos, tmp_path / "plain"), "mine", "clip_t")
    assert (cosines < 0).any()
    assert (cosines > 0).any()
    hundred = values(score(found, photos, tmp_path / "hundred", "clip-t-x100"), "mine", "clip_t")
    np.testing.assert_allclose(hundred, 100 * cosines, atol=6e-5)
    clamped = values(score(found, photos, tmp_path / "clamped", "clip-score"), "mine", "clip_t")
    np.testing.assert_allclose(clamped, np.maximum(2.5 * cosines, 0), atol=2e-6)
    other = values(score(found, photos, tmp_path / "token", "text-with-token", token="zwx"), "mine", "clip_t")
    encoder = evaluators().encoders["clip"]
    image = found.images[0]
    subject = next(subject for subject in SUITE.subjects if subject.name == image.id.subject)
    prompt = next(prompt for prompt in SUITE.prompts(subject) if prompt.index == image.id.prompt)
    text = encoder.embed_texts([prompt.template.format("zwx", subject.class_noun)])[0]
    expected = float(encoder.embed_images([read_image(image.path)])[0] @ text)
    assert other[image.id.subject, image.id.prompt, image.id.sample] == pytest.approx(expected, abs=1e-6)


def test_no_background_wants_cut_out_images(tmp_path: Path, photos: Path) -> None:
    root = draw_tree(tmp_path / "mine")
    with pytest.raises(InputError, match="has no transparent background"):
        score(read_images(root, SUITE), photos, tmp_path / "out", "no-background")
    for path in [*root.rglob("*.png"), *photos.rglob("*.jpg")]:
        image = read_image(path).convert("RGBA")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        path.unlink()
        image.save(path.with_suffix(".png"))
    frame = score(read_images(root, SUITE), photos, tmp_path / "out", "no-background")
    assert set(frame["protocol"]) == {"no-background"}


def test_six_samples_are_expected_where_the_protocol_says_so(tmp_path: Path, photos: Path) -> None:
    found = read_images(draw_tree(tmp_path / "mine"), SUITE)
    with pytest.raises(InputError, match=f"{len(suite_keys()) * 2} images are missing"):
        score(found, photos, tmp_path / "out", "six-samples")
    six = find_protocol("six-samples").apply_to(SUITE)
    frame = score(read_images(draw_tree(tmp_path / "mine", six), six), photos, tmp_path / "out", "six-samples")
    assert len(values(frame, "mine", "dino")) == 3 * len(suite_keys())


def test_workers_and_order_change_no_byte(tmp_path: Path, photos: Path) -> None:
    found = read_images(draw_tree(tmp_path / "mine"), SUITE)
    for workers in (0, 1, 2):
        score(found, photos, tmp_path / f"{workers}", workers=workers)
    backwards = ImageTree(found.root, found.images[::-1])
    score(backwards, photos, tmp_path / "backwards")
    files = {(tmp_path / name / "scores.csv").read_bytes() for name in ("0", "1", "2", "backwards")}
    assert len(files) == 1
    with pytest.raises(InputError, match="-1 workers"):
        score(found, photos, tmp_path / "none", workers=-1)


@pytest.fixture
def n_embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each run embeds."""
    counts: list[int] = []
    add = Features.add

    def counted(self: Features, *paths: object, **named: object) -> object:
        read = add(self, *paths, **named)  # type: ignore[arg-type]
        counts.append(self.n_embedded)
        return read

    monkeypatch.setattr(Features, "add", counted)
    return counts


def test_a_second_run_and_a_second_protocol_embed_nothing_new(tmp_path, photos, n_embedded):
    found = read_images(draw_tree(tmp_path / "mine"), SUITE)
    cache = tmp_path / "cache"
    first = score(found, photos, tmp_path / "one", cache=cache)
    score(found, photos, tmp_path / "two", "clip-t-x100", cache=cache)
    again = score(found, photos, tmp_path / "one", cache=cache)
    draw(found.images[0].path, 99)
    score(found, photos, tmp_path / "one", cache=cache)
    assert n_embedded == [len(suite_keys()) + N_REFERENCES, 0, 0, 1]
    pd.testing.assert_frame_equal(first, again)


@pytest.mark.parametrize("count", [2, 3, 40])
def test_shards_fill_the_cache_and_the_whole_run_embeds_nothing(tmp_path, photos, n_embedded, count):
    for method in ("one", "two"):
        draw_tree(tmp_path / "mine" / method)
    draw(tmp_path / "mine" / "two" / SUITE.subjects[0].name / "00-0.png", 500)
    found = read_images(tmp_path / "mine", SUITE)
    whole = score(found, photos, tmp_path / "whole", cache=tmp_path / "other")
    cache, out = tmp_path / "cache", tmp_path / "out"
    for number in reversed(range(1, count + 1)):
        assert score(found, photos, out, cache=cache, shard=(number, count)).empty
    assert not (out / "scores.csv").exists()
    everything, *shards = n_embedded
    assert everything == len(suite_keys()) + 1 + N_REFERENCES
    assert sum(shards) == everything or count == 40  # with very many, a copy may be in another shard
    assert max(shards) <= -(-(2 * len(suite_keys()) + N_REFERENCES) // count)
    pd.testing.assert_frame_equal(score(found, photos, out, cache=cache), whole)
    assert n_embedded[-1] == 0
    for name in ("scores.csv", "scores.parquet", "run.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(InputError, match="name a folder for it with --cache"):
        score(found, photos, out, shard=(1, 2))
    (tmp_path / "mine" / "two" / SUITE.subjects[0].name / "00-0.png").unlink()
    with pytest.raises(InputError, match="1 images are missing"):
        score(read_images(tmp_path / "mine", SUITE), photos, out, cache=cache, shard=(2, 2))


def test_a_bad_image_stops_the_embedding_but_not_the_list(tmp_path: Path, photos: Path, n_embedded: list[int]) -> None:
    root = draw_tree(tmp_path / "mine")
    paths = sorted(root.rglob("*.png"))
    for path in (paths[2], paths[-1]):
        path.write_bytes(path.read_bytes()[:-30])
    (root / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"2 images cannot be read .*delete the unreadable images.*--remake"):
        score(read_images(root, SUITE), photos, tmp_path / "out")
    assert n_embedded == [N_REFERENCES + 2]
    paths[0].unlink()
    with pytest.raises(InputError, match=r"1 images are missing.*2 images cannot be read"):
        score(read_images(root, SUITE), photos, tmp_path / "out")
    assert n_embedded[-1] == 0
