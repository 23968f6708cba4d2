"""Every metric against a plain float64 loop over real embeddings of real images."""

import numpy as np
import pytest
from eval_helpers import TinyEncoder, cosine, cosines, tiny_classifier
from PIL import Image

from bdkit.miniworld.render import render
from bdkit.miniworld.scenes import sample_scene, scene_for_prompt
from bdkit.miniworld.subjects import sample_subject
from bdkit.miniworld.truth import truth
from dreambench.registry import class_nouns, load_suite
from dreambench.suites import Prompt
from eval.score.metrics import METRICS, Batch, expected_output

SUBJECTS = ("dog", "vase", "teapot")
OWN = 1


def draw_images(class_noun: str, key: str, count: int) -> list[Image.Image]:
    subject = sample_subject(class_noun, key)
    rng = np.random.default_rng(count)
    return [Image.fromarray(render(sample_scene(subject, rng)).image) for _ in range(count)]


@pytest.fixture(scope="module")
def batch() -> Batch:
    encoders = {name: TinyEncoder(seed) for seed, name in enumerate(("dino", "clip", "identity"))}
    references = [draw_images(noun, "r", 4) for noun in SUBJECTS]
    generated = [*draw_images("vase", "r", 3), *draw_images("dog", "other", 2)]
    prompts = tuple(load_suite("mini").object_prompts[index] for index in (0, 3, 12, 20, 24))
    texts = [prompt.text("vase") for prompt in prompts]
    return Batch(
        generated={name: encoder.embed_images(generated) for name, encoder in encoders.items()},
        references={name: encoder.embed_images(references[OWN]) for name, encoder in encoders.items()},
        pairs=np.random.default_rng(0).random((5, 4)) < 0.7, texts=encoders["clip"].embed_texts(texts),
        predictions=tiny_classifier(1).predict(generated), prompts=prompts,
        gallery=tuple(encoders["identity"].embed_images(images) for images in references), subject_index=OWN,
        class_index=class_nouns().index("vase"),
    )  # fmt: skip


@pytest.mark.parametrize(("metric", "encoder"), [("dino", "dino"), ("clip_i", "clip"), ("identity", "identity")])
def test_subject_metrics(batch: Batch, metric: str, encoder: str) -> None:
    wanted = [sum(row) / len(row) for row in cosines(batch, encoder)]
    found = METRICS[metric].score(batch)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_clip_t_and_class_right(batch: Batch) -> None:
    wanted = [cosine(a, b) for a, b in zip(batch.generated["clip"].tolist(), batch.texts.tolist(), strict=True)]
    np.testing.assert_allclose(METRICS["clip_t"].score(batch), wanted, atol=1e-6)
    rows = batch.predictions["class"].tolist()
    wanted = [float(row.index(max(row)) == class_nouns().index("vase")) for row in rows]
    np.testing.assert_array_equal(METRICS["class_right"].score(batch), wanted)


def test_retrieval(batch: Batch) -> None:
    wanted = []
    for row, image in enumerate(batch.generated["identity"].tolist()):
        similarities = []
        for number, gallery in enumerate(batch.gallery):
            vectors = gallery.tolist()
            if number == OWN:
                vectors = [vector for column, vector in enumerate(vectors) if batch.pairs[row, column]]
            mean = [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]
            similarities.append(cosine(image, mean))
        wanted.append(float(similarities.index(max(similarities)) == OWN))
    found = METRICS["retrieval"].score(batch)
    np.testing.assert_array_equal(found, wanted)
    assert 0 < found.mean() < 1


def test_prompt_right_reads_the_output_of_the_prompts_kind() -> None:
    suite = load_suite("mini")
    prompts = (*suite.live_prompts, *suite.object_prompts)
    sizes = {"class": 15, "context": 21, "outfit": 11, "change": 6}
    predictions = {name: np.full((len(prompts), size), -5.0) for name, size in sizes.items()}
    for row, prompt in enumerate(prompts):
        if row % 2:
            output, index = expected_output(prompt)
            predictions[output][row, index] = 0.0
        else:
            for output, size in sizes.items():
                predictions[output][row, size - 1] = 0.0
    batch = Batch(
        generated={}, references={}, pairs=np.ones((len(prompts), 1), dtype=bool), subject_index=0, class_index=0,
        predictions=predictions, prompts=prompts,
    )  # fmt: skip
    found = METRICS["prompt_right"].score(batch)
    assert found[1::2].all()
    # the last index is right by chance for the last outfit and the last change only
    last = {19, 24}
    right = [row for row in range(0, 50, 2) if found[row]]
    assert all(prompts[row].index in last for row in right)


@pytest.mark.parametrize("live", [True, False])
def test_expected_is_the_mini_worlds_truth(live: bool) -> None:
    """The index that a prompt expects is the ground truth of the scene that the mini world draws for it."""
    suite = load_suite("mini")
    subject = sample_subject("cat" if live else "boot", "x", "test")
    prompts: tuple[Prompt, ...] = suite.live_prompts if live else suite.object_prompts
    for prompt in prompts:
        output, index = expected_output(prompt)
        assert truth(scene_for_prompt(subject, prompt.template, seed=1))[f"{output}_index"] == index


def test_perfect_images_score_one(batch: Batch) -> None:
    same = Batch(
        generated=batch.references, references=batch.references, pairs=np.eye(4, dtype=bool), gallery=batch.gallery,
        subject_index=OWN, class_index=0,
    )  # fmt: skip
    for metric in ("dino", "clip_i", "identity"):
        np.testing.assert_allclose(METRICS[metric].score(same), 1.0, atol=1e-6)
    np.testing.assert_array_equal(METRICS["retrieval"].score(same), 1.0)
