"""Prompted context generation: trimap, matte, blend, and the batches that stage 2 makes of them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.config import TrainingConfig
from bdkit.training.pretraining import matting
from bdkit.training.pretraining import subject_representation as stage2
from bdkit.training.pretraining.config import SubjectRepresentationConfig
from bdkit.training.pretraining.context_generation import draw_context, draw_move, jitter_cutouts
from bdkit.training.pretraining.corpus import Corpus
from bdkit.utils.errors import InputError

SIZE = 32
NOUNS = ("dog", "cat", "vase", "backpack")


def random_images(count: int, seed: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def soft_disc(size: int, radius: float, softness: float, centre: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """Exact alpha (size, size) of a disc whose edge falls from 1 to 0 over ``softness`` pixels."""
    y, x = np.mgrid[:size, :size] + 0.5
    distance = np.hypot(x - centre[0] * size, y - centre[1] * size)
    return np.clip((radius - distance) / softness + 0.5, 0, 1)


def test_trimap_against_a_loop() -> None:
    probability = np.array([[0.0, 0.1, 0.11, 0.5], [0.89, 0.9, 0.91, 1.0]])
    known = matting.trimap(probability)
    for value, got in zip(probability.flat, known.flat, strict=True):
        assert got == (1.0 if value >= 0.9 else 0.0 if value <= 0.1 else 0.5)
    assert matting.trimap(probability, foreground=0.6, background=0.4)[0, 3] == 0.5
    assert matting.trimap(probability, foreground=0.5)[0, 3] == 1.0


@pytest.mark.parametrize("band", [1, 2, 4])
def test_the_unknown_band_has_its_width_on_both_sides(band: int) -> None:
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[:, 20:] = 255
    known = matting.trimap_of_mask(mask, band)[20]  # far from the image's rim
    assert np.flatnonzero(known[:35] == 0.5).tolist() == list(range(20 - band, 20 + band))
    assert (known[: 20 - band] == 0).all()
    assert (known[20 + band : 35] == 1).all()


def test_masks_without_an_edge_need_no_solver() -> None:
    (image,) = random_images(1, 0, 12)
    for value in (0, 255):
        foreground, alpha = matting.matte_of_scene(image, np.full((12, 12), value, dtype=np.uint8))
        assert np.array_equal(foreground, image)
        assert (alpha[4:8, 4:8] == value).all()


@pytest.mark.slow
def test_matte_of_a_soft_disc_against_its_exact_alpha() -> None:
    alpha = soft_disc(48, 14, 5)
    y, x = np.mgrid[:48, :48] / 47
    front = np.stack([0.9 - 0.1 * x, 0.2 + 0.1 * y, 0.1 + 0 * x], -1)
    back = np.stack([0.1 + 0.1 * y, 0.4 + 0.1 * x, 0.8 - 0.1 * y], -1)
    image = ((alpha[..., None] * front + (1 - alpha[..., None]) * back) * 255).round().astype(np.uint8)
    known = matting.trimap_of_mask((alpha * 255).astype(np.uint8), band=4)
    matte, colours = matting.closed_form_matte(image, known)
    unknown = known == 0.5
    assert np.abs(matte - alpha).mean() < 0.03
    assert np.abs(matte - alpha)[unknown].mean() < 0.06
    assert np.abs(np.round(known) - alpha)[unknown].mean() > 0.2  # so the solver did something
    assert np.abs(colours - front)[alpha > 0.5].mean() < 0.05
    # On another background the disc looks as if it had been drawn there.
    other = random_images(1, 0, 48)[0]
    foreground, cut = matting.matte_of_scene(image, (alpha * 255).astype(np.uint8))
    assert foreground.dtype == cut.dtype == np.uint8
    truth = alpha[..., None] * front * 255 + (1 - alpha[..., None]) * other
    assert np.abs(matting.blend(foreground, cut, other) - truth).mean() < 6


def test_blend_against_a_float_loop() -> None:
    front, back = random_images(2, 1, 6), random_images(2, 2, 6)
    alpha = np.random.default_rng(3).integers(0, 256, (2, 6, 6), dtype=np.uint8)
    alpha[0, 0, :2] = 0, 255
    mixed = matting.blend(front, alpha, back)
    for index in np.ndindex(mixed.shape):
        weight = int(alpha[index[:3]]) / 255
        exact = weight * int(front[index]) + (1 - weight) * int(back[index])
        assert abs(int(mixed[index]) - exact) <= 0.5001
    assert mixed.dtype == np.uint8
    assert np.array_equal(mixed[0, 0, 0], back[0, 0, 0])
    assert np.array_equal(mixed[0, 0, 1], front[0, 0, 1])


@pytest.mark.slow
def test_mattes_are_kept_and_only_missing_parts_are_made(tmp_path: Path) -> None:
    images = random_images(7, 4, 16)
    masks = np.stack([(soft_disc(16, 4 + k / 2, 2) * 255).astype(np.uint8) for k in range(7)])
    settings = {"part": 3, "workers": 1, "progress": False}
    foregrounds, alphas = matting.build_mattes(images, masks, tmp_path, **settings)
    for k in range(7):  # in the order of the images
        expected = matting.matte_of_scene(images[k], masks[k])
        assert np.array_equal(foregrounds[k], expected[0])
        assert np.array_equal(alphas[k], expected[1])
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    files[1].unlink()
    times = [files[0].stat().st_mtime_ns, files[2].stat().st_mtime_ns]
    again = matting.build_mattes(images, masks, tmp_path, **settings)
    assert np.array_equal(again[0], foregrounds)
    assert np.array_equal(again[1], alphas)
    assert [files[0].stat().st_mtime_ns, files[2].stat().st_mtime_ns] == times
    assert sorted(tmp_path.iterdir()) == files


def test_jitter_moves_colours_and_alpha_together() -> None:
    alpha = (soft_disc(64, 14, 2, (0.4, 0.55)) * 255).astype(np.uint8)
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[..., 1] = 255  # what is around the subject is green; none of it may come along
    image[alpha > 0] = (200, 0, 0)
    split = round(0.4 * 64)
    image[:, split:][alpha[:, split:] > 0] = (0, 0, 200)
    mirrored, areas, shifts = 0, [], []
    share = alpha[..., None] / 255
    cutout = torch.from_numpy(np.dstack([image * share, share]).astype(np.float32)).permute(2, 0, 1)
    moves = np.stack([draw_move(np.random.default_rng(seed)) for seed in range(60)])
    made = jitter_cutouts(cutout.expand(60, -1, -1, -1), moves)
    assert made.shape == (60, 4, 64, 64)
    for one in made.permute(0, 2, 3, 1).numpy():
        moved, cut = one[..., :3] / one[..., 3:].clip(1e-6), one[..., 3] * 255
        assert moved[..., 1][cut > 128].max() < 30
        assert (moved[..., 0] + moved[..., 2])[cut > 128].min() > 150
        red, blue = ((moved[..., c] > 150) & (cut > 200) for c in (0, 2))
        flipped = bool(np.nonzero(red)[1].mean() > np.nonzero(blue)[1].mean())
        mirrored += flipped
        areas.append(cut.sum() / alpha.sum())
        y, x = (float((grid * cut).sum() / cut.sum()) + 0.5 for grid in np.mgrid[:64, :64])
        x = 64 - x if flipped else x
        scale = np.sqrt(areas[-1])
        shifts.append((x - (32 + (0.4 * 64 - 32) * scale), y - (32 + (0.55 * 64 - 32) * scale)))
    assert 18 <= mirrored <= 42
    assert 0.6 < min(areas) < 0.75
    assert 1.2 < max(areas) < 1.4
    largest = np.abs(shifts).max(0)
    assert ((largest > 5) & (largest < 7)).all()  # 10 % of 64 pixels


BACKGROUNDS = random_images(9, 6)


def small_corpus() -> Corpus:
    count = 48
    return Corpus(
        images=random_images(count, 5),
        alphas=np.stack([(soft_disc(SIZE, 8 + k % 3, 1) * 255).astype(np.uint8) for k in range(count)]),
        templates=["a {} in the snow", "a red {}", "a picture of a {} on the grass"] * 16,
        details=["a dog"] * count,
        class_nouns=list(NOUNS) * 12,
    )


def batches(jitter=True, mattes=False, size=16, seed=0, plain=None, model=None, **switches):
    corpus = replace(small_corpus(), plain=plain or {})
    count = len(corpus)
    made = (255 - corpus.images[:5], corpus.alphas[:5] // 2) if mattes else None
    training = TrainingConfig(steps=3, batch_size=size, learning_rate=1e-3, seed=seed)
    settings = SubjectRepresentationConfig(jitter=jitter, **switches)
    latents = torch.arange(float(count)).view(count, 1, 1, 1).expand(count, 4, 8, 8).half()
    return stage2.SubjectBatches(model or tiny_model(), corpus, latents, BACKGROUNDS, made, training, settings)


def draws(made, count):
    return [draw_context(np.random.default_rng(k), len(BACKGROUNDS), made.config) for k in range(count)]


def test_shares_of_dropped_subjects_and_empty_prompts() -> None:
    made, corpus = batches(), small_corpus()
    empty, _ = made.model.tokenize([""], None, with_subject=False)
    counts = {"subject": 0, "dropped": 0, "empty": 0}
    steps = 110
    for step in range(steps):
        batch = made(step, torch.Generator())
        chosen = made.indices(step)
        for k, index in enumerate(chosen):
            noun, template = corpus.class_nouns[index], corpus.templates[index]
            if batch.subject_mask[k].any():
                expected = made.model.tokenize([template], [noun], with_subject=True)
                counts["subject"] += 1
            elif torch.equal(batch.input_ids[k], empty[0]):
                counts["empty"] += 1
                continue
            else:
                expected = made.model.tokenize([template], [noun], with_subject=False)
                counts["dropped"] += 1
            assert torch.equal(batch.input_ids[k], expected[0][0])
            assert torch.equal(batch.subject_mask[k], expected[1][0])
    total = 16 * steps
    assert counts["dropped"] / total == pytest.approx(0.15, abs=0.03)
    assert counts["empty"] / total == pytest.approx(0.10, abs=0.025)


def test_a_batch_is_a_function_of_its_step() -> None:
    one, two = batches(), batches()
    one.config = two.config = replace(one.config, subject_weight=2.0)
    for step in (4, 0):  # in any order
        ours, theirs = one(step, torch.Generator()), two(step, torch.Generator())
        two(9, torch.Generator())
        for name, value in vars(ours).items():
            assert torch.equal(value, getattr(theirs, name)), name
    assert not torch.equal(batches(seed=1)(0, torch.Generator()).pixels, one(0, torch.Generator()).pixels)


def test_target_word_and_cut_out_belong_together_and_the_background_is_new() -> None:
    made, corpus = batches(jitter=False), small_corpus()
    batch = made(2, torch.Generator())
    tokens = made.model.qformer_tokenizer(list(NOUNS)).input_ids
    backgrounds = set()
    for k, index in enumerate(made.indices(2)):
        assert (batch.latents[k] == float(index)).all()
        assert batch.word_ids[k][: len(tokens[index % 4])].tolist() == tokens[index % 4]
        assert batch.word_mask[k].sum() == len(tokens[index % 4])
        options = matting.blend(corpus.images[index], corpus.alphas[index], BACKGROUNDS)
        fits = [n for n, p in enumerate(pixels_from_arrays(options, clip=True)) if torch.equal(p, batch.pixels[k])]
        assert len(fits) == 1
        backgrounds |= set(fits)
        target = pixels_from_arrays(corpus.images[index][None], clip=True)[0]
        same = (batch.pixels[k] == target).all(0)
        assert 0.1 < same.float().mean() < 0.5  # the subject, not the image
    assert len(backgrounds) > 3


def test_mattes_serve_the_images_that_have_one_and_show_no_outfit_or_change() -> None:
    made, corpus = batches(jitter=False, mattes=True), small_corpus()
    images = made.inputs(np.array([4, 5]), draws(made, 2)).numpy()
    matted = [matting.blend(255 - corpus.images[4], corpus.alphas[4] // 2, b) for b in BACKGROUNDS]
    exact = [matting.blend(corpus.images[5], corpus.alphas[5], b) for b in BACKGROUNDS]
    for image, options in zip(images, (matted, exact), strict=True):
        assert any(np.array_equal(image, option) for option in options)
    corpus = small_corpus()
    plain = 255 - corpus.images[7], corpus.alphas[8]
    made = batches(jitter=False, mattes=True, plain={4: plain})  # an image that has a matte of its own
    (image,) = made.inputs(np.array([4]), draws(made, 1)).numpy()
    assert any(np.array_equal(image, matting.blend(*plain, b)) for b in BACKGROUNDS)


def test_the_same_image_goes_in_and_comes_out() -> None:
    made, corpus = batches(mattes=True, same_image=True), small_corpus()
    batch = made(1, torch.Generator())
    targets = pixels_from_arrays(corpus.images[made.indices(1)], clip=True)
    assert torch.equal(batch.pixels, targets)
    usual = batches(mattes=True)(1, torch.Generator())
    assert torch.equal(batch.input_ids, usual.input_ids)  # nothing else differs


def test_without_subject_text_the_class_noun_reaches_the_multimodal_encoder_neither_in_training_nor_later() -> None:
    model = tiny_model()
    image = Image.fromarray(random_images(1, 3)[0])
    with_text = [model.encode_subject(image, noun) for noun in ("dog", "vase")]
    assert not torch.equal(*with_text)
    model.conventions = replace(model.conventions, subject_text=False)
    without = [model.encode_subject(image, noun) for noun in ("dog", "vase")]
    assert torch.equal(*without)
    with pytest.raises(InputError, match="class word is empty"):
        model.encode_subject(image, " ")
    batch = batches(model=model)(0, torch.Generator())
    empty = model.qformer_tokenizer("").input_ids
    assert (batch.word_mask.sum(1) == len(empty)).all()
    assert batch.word_ids[:, : len(empty)].tolist() == [empty] * len(batch.word_ids)
    pixels = model.conventions.pixels([image], model.multimodal_encoder.image_size)
    ours = model.multimodal_encoder(pixels, batch.word_ids[:1], batch.word_mask[:1])
    torch.testing.assert_close(ours, without[0])  # padding changes nothing


def test_the_subject_counts_more_than_the_background() -> None:
    made, corpus = batches(), small_corpus()
    chosen = made.indices(0)
    assert made(0, torch.Generator()).pixel_weights is None
    made.config = replace(made.config, subject_weight=3.0)
    weights = made(0, torch.Generator()).pixel_weights
    side = made.latents.shape[-1]
    assert weights.shape == (len(chosen), 1, side, side)
    for row, index in zip(weights, chosen, strict=True):
        blocks = corpus.alphas[index].reshape(side, SIZE // side, side, SIZE // side).mean((1, 3)) / 255
        assert np.allclose(row[0].numpy(), 1 + 2 * blocks, atol=1e-5)
    assert weights.max() > 2.9
    assert weights.min() < 1.1
    with pytest.raises(InputError, match="subject_weight is 0"):
        replace(made.config, subject_weight=0.0)


@pytest.mark.parametrize("frozen", [("image_encoder",), (), ("image_encoder", "text"), ("unet", "multimodal")])
def test_stage_two_trains_all_but_the_autoencoder_and_what_has_no_rate(frozen: tuple[str, ...]) -> None:
    rates = {
        f"{part}_rate": 0.0 if part in frozen else 1e-3 for part in ("unet", "text", "multimodal", "image_encoder")
    }
    made = batches()
    made.config = replace(made.config, **rates)
    model, before = made.model, {k: v.clone() for k, v in made.model.state_dict().items()}
    given = stage2.subject_batches(
        model, small_corpus(), made.latents / 48, BACKGROUNDS, made.training, made.config
    )  # fmt: skip
    history = stage2.train_subject_representation(
        model, given, made.training, made.config, None, progress=False, device="cpu"
    )
    assert len(history) == 3
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert not {k for k in moved if k.startswith("vae.")}
    parts = {"unet.": "unet", "text_encoder.": "text", "multimodal_encoder.vision_model.": "image_encoder"}
    parts |= {f"multimodal_encoder.{name}": "multimodal" for name in ("qformer.", "projection.", "query_tokens")}
    for prefix, part in parts.items():
        assert any(k.startswith(prefix) for k in moved) == (part not in frozen), prefix


def test_matting_leaves_the_number_of_threads_of_torch() -> None:
    script = (
        "import torch; torch.set_num_threads(1); from bdkit.training.pretraining.matting import load_pymatting; "
        "load_pymatting(); print(torch.get_num_threads())"
    )
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "1\n"
