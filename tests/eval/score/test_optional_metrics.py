"""The metrics beyond the paper's three, against plain float64 loops and on cases that can be checked by hand."""

import math

import numpy as np
import pytest
from eval_helpers import TinyEncoder, cosine, cosines
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import sample_scene
from bdkit.miniworld.subjects import sample_subject
from dreambench.registry import load_suite
from dreambench.suites import Prompt
from eval.score.edit_metrics import Edit, paste_source, ssim_map
from eval.score.masks import keep
from eval.score.metrics import METRICS, Batch, copy_threshold, nearest_of_references, place_words

PROMPTS = tuple(load_suite("mini").object_prompts[index] for index in (0, 0, 0, 3, 20, 20))
NETWORKS = {
    "dinov2": TinyEncoder(1), "siglip2": TinyEncoder(2), "dino": TinyEncoder(3), "dino_subject": TinyEncoder(3),
    "clip_subject": TinyEncoder(4), "clip_background": TinyEncoder(4),
}  # fmt: skip


def edges(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A perceptual distance like LPIPS: it looks at neighbours too."""
    changed = np.abs(first.astype(np.float64) - second).mean(axis=3)
    return changed + np.abs(np.diff(changed, axis=1, append=0))


def drawn(key: str, count: int) -> tuple[list[Image.Image], list[NDArray[np.float64]]]:
    rng = np.random.default_rng(len(key))
    images = [render(sample_scene(sample_subject("vase", key), rng)) for _ in range(count)]
    return [Image.fromarray(p.image) for p in images], [p.alpha / 255 for p in images]


def embed(images: list[Image.Image], alphas: list[NDArray[np.float64]]) -> dict[str, NDArray[np.floating]]:
    kept = {"dino_subject": "subject", "clip_subject": "subject", "clip_background": "background"}
    views = {
        name: [keep(i, a, kept[name], (128, 128, 128)) for i, a in zip(images, alphas, strict=True)]  # type: ignore[arg-type]
        if name in kept
        else images
        for name in NETWORKS
    }
    return {name: network.embed_images(views[name]) for name, network in NETWORKS.items()}


@pytest.fixture(scope="module")
def batch() -> Batch:
    images, alphas = drawn("own", len(PROMPTS))
    return Batch(
        generated=embed(images, alphas),
        references=embed(*drawn("references", 4)),
        pairs=np.random.default_rng(1).random((len(PROMPTS), 4)) < 0.7,
        more_texts={
            "siglip2": NETWORKS["siglip2"].embed_texts([prompt.text("vase") for prompt in PROMPTS]),
            "clip_background": NETWORKS["clip_background"].embed_texts([place_words(p) or "a" for p in PROMPTS]),
        },
        prompts=PROMPTS,
        oracle_nearest={"dino": np.linspace(0.2, 0.9, 50)},
        images=np.stack([np.asarray(image) for image in images]),
        perceptual=edges,
        subject_index=0,
        class_index=0,
    )


@pytest.mark.parametrize(
    ("metric", "encoder"),
    [
        ("dinov2", "dinov2"),
        ("siglip2_i", "siglip2"),
        ("dino_subject", "dino_subject"),
        ("clip_i_subject", "clip_subject"),
    ],
)
def test_means_over_references(batch: Batch, metric: str, encoder: str) -> None:
    wanted = [sum(row) / len(row) for row in cosines(batch, encoder)]
    np.testing.assert_allclose(METRICS[metric].score(batch), wanted, atol=1e-6)


def test_copies_are_the_nearest_and_siglip_reads_texts(batch: Batch) -> None:
    np.testing.assert_allclose(
        METRICS["copy_similarity"].score(batch), [max(r) for r in cosines(batch, "dino")], atol=1e-6
    )
    texts = batch.more_texts["siglip2"].tolist()
    wanted = [cosine(a, b) for a, b in zip(batch.generated["siglip2"].tolist(), texts, strict=True)]
    np.testing.assert_allclose(METRICS["siglip2_t"].score(batch), wanted, atol=1e-6)
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)


def test_background_text_is_for_places_alone(batch: Batch) -> None:
    found = METRICS["clip_t_background"].score(batch)
    texts = batch.more_texts["clip_background"].tolist()
    for row, prompt in enumerate(PROMPTS):
        if prompt.kind == "context":
            wanted = cosine(batch.generated["clip_background"][row].tolist(), texts[row])
            assert found[row] == pytest.approx(wanted, abs=1e-6)
        else:
            assert np.isnan(found[row])


@pytest.mark.parametrize(
    ("template", "kind", "words"),
    [
        ("a {} {} in the jungle", "context", "in the jungle"),
        ("a {} {} on top of a white rug", "context", "on top of a white rug"),
        ("a {} {} wearing a red hat", "outfit", ""),
        ("a red {} {}", "property", ""),
    ],
)
def test_place_words(template: str, kind: str, words: str) -> None:
    assert place_words(Prompt(0, template, kind)) == words  # type: ignore[arg-type]


def test_diversity_of_a_sample_is_its_mean_distance_to_the_others(batch: Batch) -> None:
    found = METRICS["diversity"].score(batch)
    embeddings = batch.generated["dino"].tolist()
    pairs = [1 - cosine(embeddings[a], embeddings[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found[:3].mean() == pytest.approx(sum(pairs) / 3, abs=1e-6)
    assert found[0] == pytest.approx((pairs[0] + pairs[1]) / 2, abs=1e-6)
    assert np.isnan(found[3]), "one sample has no diversity"
    np.testing.assert_allclose(found[4:], 1 - cosine(embeddings[4], embeddings[5]), atol=1e-6)
    alone = [float(batch.perceptual(batch.images[[1]], batch.images[[other]]).mean()) for other in (0, 2)]
    found = METRICS["diversity_lpips"].score(batch)
    assert found[1] == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert np.isnan(found[3])


def test_diversity_of_repeated_samples_is_zero(batch: Batch) -> None:
    same = {name: np.repeat(values[:1], len(PROMPTS), axis=0) for name, values in batch.generated.items()}
    repeated = Batch(
        generated=same, references=batch.references, pairs=batch.pairs, prompts=PROMPTS, subject_index=0, class_index=0,
        images=np.repeat(batch.images[:1], len(PROMPTS), axis=0), perceptual=batch.perceptual,
    )  # fmt: skip
    for metric in ("diversity", "diversity_lpips"):
        found = METRICS[metric].score(repeated)
        np.testing.assert_allclose(found[[0, 1, 2, 4, 5]], 0, atol=1e-6)
        assert METRICS[metric].score(batch)[0] > 1e-3


# the copy detector


def test_copies_are_above_the_threshold_of_the_nearest_references() -> None:
    assert copy_threshold(np.arange(101) / 100) == pytest.approx(0.99)
    values = np.random.default_rng(0).random(1000)
    assert (values > copy_threshold(values)).mean() == pytest.approx(0.01)
    vectors = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    np.testing.assert_allclose(nearest_of_references(vectors), [0.6, 0.8, 0.8])
    assert nearest_of_references(vectors[:1]).shape == (0,)


def test_copies_are_flagged_and_honest_images_are_not() -> None:
    """An image of the same vase elsewhere is no copy; the reference is, and so is it with one pixel changed."""
    images, _ = drawn("a vase", 9)
    references, honest = images[:5], images[5:]
    changed = images[1].copy()
    changed.putpixel((5, 5), (255, 0, 255))
    generated = [*honest, references[0], changed]
    network = NETWORKS["dino"]
    embedded = network.embed_images(references)
    suite = [embedded, *(network.embed_images(drawn(f"{'a' * n} vase", 5)[0]) for n in range(3, 13))]
    batch = Batch(
        generated={"dino": network.embed_images(generated)}, references={"dino": embedded},
        pairs=np.ones((6, 5), dtype=bool),
        oracle_nearest={"dino": np.concatenate([nearest_of_references(own) for own in suite])}, subject_index=0,
        class_index=0,
    )  # fmt: skip
    np.testing.assert_array_equal(METRICS["copied"].score(batch), [0, 0, 0, 0, 1, 1])
    similarity = METRICS["copy_similarity"].score(batch)
    assert similarity[4] == pytest.approx(1, abs=1e-6)
    assert similarity[:4].max() < similarity[5] < 1


def test_oracle_without_self_pairs_is_not_flagged() -> None:
    references = NETWORKS["dino"].embed_images(drawn("several", 6)[0])
    for pairs, wanted in ((~np.eye(6, dtype=bool), 0.0), (np.ones((6, 6), dtype=bool), 1.0)):
        batch = Batch(
            generated={"dino": references}, references={"dino": references}, pairs=pairs, subject_index=0,
            class_index=0, oracle_nearest={"dino": nearest_of_references(references)},
        )  # fmt: skip
        flagged = METRICS["copied"].score(batch)
        assert (flagged == wanted).all()


# edits


def edits() -> list[Edit]:
    images, alphas = drawn("edited", 3)
    others, _ = drawn("another", 3)
    made = []
    for image, other, alpha in zip(images, others, alphas, strict=True):
        source = np.asarray(image)
        inside = np.where(alpha[..., None] > 0, np.asarray(other), source).astype(np.uint8)
        made.append(Edit(image=inside, source=source, mask=(alpha > 0).astype(np.float64)))
    return made


def score(metric: str, made: list[Edit]) -> NDArray[np.floating]:
    batch = Batch(
        generated={}, references={}, pairs=np.ones((len(made), 1), dtype=bool), subject_index=0, class_index=0,
        edits=tuple(made), perceptual=edges,
    )  # fmt: skip
    return METRICS[metric].score(batch)


@pytest.mark.parametrize(("metric", "kept"), [("ssim_outside", 1.0), ("lpips_outside", 0.0)])
def test_what_happens_inside_the_mask_does_not_count(metric: str, kept: float) -> None:
    made = edits()
    np.testing.assert_allclose(score(metric, made), kept, atol=1e-9)
    noise = np.random.default_rng(0).integers(0, 256, made[0].image.shape).astype(np.uint8)
    harmed = [Edit(image=noise, source=edit.source, mask=edit.mask) for edit in made]
    assert (np.abs(score(metric, harmed) - kept) > 1e-3).all()


def test_ssim_is_skimages() -> None:
    images, _ = drawn("ssim", 4)
    for one, other in ((0, 1), (2, 3)):
        first, second = np.asarray(images[one]), np.asarray(images[other])
        mean, wanted = structural_similarity(
            first, second, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=255, full=True,
        )  # fmt: skip
        found = ssim_map(first, second)
        np.testing.assert_allclose(found, wanted.mean(axis=2), atol=1e-9)
        # skimage's mean leaves out the border that the window overlaps
        assert found[5:-5, 5:-5].mean() == pytest.approx(mean, abs=1e-9)


def test_ssim_is_a_plain_loop_at_one_pixel() -> None:
    edit = edits()[0]
    x, y = (np.asarray(p, dtype=np.float64)[..., 1] for p in (edit.source, np.roll(edit.source, 3, axis=1)))
    weights = [[math.exp(-(i * i + j * j) / 4.5) for j in range(-5, 6)] for i in range(-5, 6)]
    total = sum(map(sum, weights))
    row, column = 30, 22
    sums = dict.fromkeys(("x", "y", "xx", "yy", "xy"), 0.0)
    for i in range(11):
        for j in range(11):
            a, b, w = x[row - 5 + i, column - 5 + j], y[row - 5 + i, column - 5 + j], weights[i][j] / total
            for name, value in (("x", a), ("y", b), ("xx", a * a), ("yy", b * b), ("xy", a * b)):
                sums[name] += w * value
    c1, c2 = 6.5025, 58.5225
    covariance = sums["xy"] - sums["x"] * sums["y"]
    variances = sums["xx"] - sums["x"] ** 2 + sums["yy"] - sums["y"] ** 2
    wanted = (2 * sums["x"] * sums["y"] + c1) * (2 * covariance + c2)
    wanted /= (sums["x"] ** 2 + sums["y"] ** 2 + c1) * (variances + c2)
    grey = [np.repeat(v[..., None], 3, axis=2).astype(np.uint8) for v in (x, y)]
    assert ssim_map(*grey)[row, column] == pytest.approx(wanted, abs=1e-6)


def test_soft_masks_paste_by_share_and_a_whole_one_leaves_nothing() -> None:
    image, source = np.full((2, 2, 3), 200, np.uint8), np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[0.0, 1.0], [0.5, 2.0]])
    np.testing.assert_array_equal(
        paste_source(Edit(image=image, source=source, mask=mask))[..., 0], [[200, 100], [150, 100]]
    )
    made = edits()[:1]
    whole = [Edit(image=e.image, source=e.source, mask=np.ones_like(e.mask)) for e in made]
    assert np.isnan(score("ssim_outside", whole)).all()
