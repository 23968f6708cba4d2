"""How good a mini evaluator is, on images of subjects that it never saw.

`python -m eval.mini.measure` measures the shipped ones on development individuals.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image
from scipy.stats import rankdata, spearmanr

from bdkit.utils.io import read_json, write_json
from eval.mini.individuals import Individuals, IndividualsConfig, draw_individuals
from eval.mini.networks import HEADS, WordTokenizer, load_network
from eval.mini.pool import Material, Pool
from eval.mini.views import degrade, to_tensor
from eval.score.encoders import Classifier, ClipEncoder, Encoder
from eval.score.protocols import PROTOCOLS
from eval.score.weights import CARD, MINI_WEIGHTS

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


def measure(path: Path, material: Material) -> dict[str, float]:
    """The measures of a weights file on the held-out subjects and on development individuals."""
    encoder = read_encoder(path)
    if isinstance(encoder, Classifier):
        return measure_classifier(encoder, material.held_out)
    measures = {**measure_embeddings(encoder, material.held_out), **measure_individuals(encoder, material.individuals)}
    if isinstance(encoder, ClipEncoder):
        measures |= measure_clip(encoder, material.held_out, material.prompts)
    return measures


def read_encoder(path: Path) -> Encoder:
    """The encoder of a weights file."""
    network, config = load_network(path)
    rules, checkpoint, kind = PROTOCOLS["mini"], {"file": path.name}, config["kind"]
    if kind == "clip":
        tokenizer = WordTokenizer(config["words"], config["text"]["context_length"])
        return ClipEncoder(network, rules.clip, kind, checkpoint, tokenizer=tokenizer)
    return (Classifier if kind == "classifier" else Encoder)(network, rules.dino, kind, checkpoint)


def retrieval(embeddings: Floats, subjects: Ints, classes: Ints) -> dict[str, float]:
    """Find the instance of an image among one image of each instance.

    Args:
        embeddings: (n, d) unit vectors. subjects, classes: (n,) integers.

    Returns:
        `top1` 0..1 with the first image of each instance as the gallery and all others as queries; the mean cosines
        of two images of the same instance, of other instances of the class, and of instances of other classes.
    """
    _, gallery = np.unique(subjects, return_index=True)
    queries = np.setdiff1d(np.arange(len(subjects)), gallery)
    nearest = gallery[(embeddings[queries] @ embeddings[gallery].T).argmax(axis=1)]
    cosines = embeddings @ embeddings.T
    same = subjects[:, None] == subjects[None]
    alike = classes[:, None] == classes[None]
    off_diagonal = ~np.eye(len(subjects), dtype=bool)
    return {
        "instances": float(len(gallery)),
        "top1": float((subjects[nearest] == subjects[queries]).mean()),
        "cosine_same": float(cosines[same & off_diagonal].mean()),
        "cosine_other_same_class": float(cosines[~same & alike].mean()),
        "cosine_other_class": float(cosines[~alike].mean()),
    }


def neighbours_accuracy(embeddings: Floats, subjects: Ints, classes: Ints, k: int = 10) -> float:
    """How often the k nearest images of other instances vote for the right class, 0..1."""
    cosines = embeddings @ embeddings.T
    cosines[subjects[:, None] == subjects[None]] = -np.inf
    nearest = np.argsort(-cosines, axis=1)[:, :k]
    n_classes = int(classes.max()) + 1
    votes = np.stack([np.bincount(row, minlength=n_classes) for row in classes[nearest]])
    return float((votes.argmax(axis=1) == classes).mean())


def measure_embeddings(encoder: Encoder, pool: Pool) -> dict[str, float]:
    """Instance retrieval and class by nearest neighbours of an image encoder.

    `cosine_damaged` is the mean cosine between an image and itself, blurred, quantised and noisy.
    """
    embeddings = encoder.embed_images(_images(pool))
    classes = pool.labels["class"]
    damaged = degrade(to_tensor(pool.images), torch.Generator().manual_seed(0), share=1.0)
    pixels = damaged.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    kept = (encoder.embed_images([Image.fromarray(image) for image in pixels]) * embeddings).sum(axis=1)
    return {
        **retrieval(embeddings, pool.subject, classes),
        "cosine_damaged": float(kept.mean()),
        "knn_class": neighbours_accuracy(embeddings, pool.subject, classes),
    }


def measure_clip(encoder: ClipEncoder, pool: Pool, prompts: list[list[str]]) -> dict[str, float]:
    """Zero-shot class and context, with the prompts of every class (rows) in every context (columns).

    A class is the mean of its row's texts, a context the mean of its column's. Images in contexts without a column
    (the studio) and of subjects with an outfit or a change count for neither.
    """
    grid = np.stack([encoder.embed_texts(row) for row in prompts])
    labels = pool.labels
    plain = (labels["context"] < grid.shape[1]) & (labels["outfit"] == 0) & (labels["change"] == 0)
    images = [image for image, keep in zip(_images(pool), plain, strict=True) if keep]
    embeddings = encoder.embed_images(images)
    by_class = (embeddings @ grid.mean(axis=1).T).argmax(axis=1)
    by_context = (embeddings @ grid.mean(axis=0).T).argmax(axis=1)
    return {
        "zero_shot_class": float((by_class == labels["class"][plain]).mean()),
        "zero_shot_context": float((by_context == labels["context"][plain]).mean()),
        "cosine_own_text": float(
            np.einsum("nd,nd->n", embeddings, grid[labels["class"][plain], labels["context"][plain]]).mean()
        ),
    }


def measure_individuals(encoder: Encoder, shown: Individuals) -> dict[str, float]:
    """`tell_apart` of the references, `rank_identity` of the lookalikes, and of a CLIP `measure_prompts`."""
    rows = encoder.embed_images(shown.references)
    measures = {
        **tell_apart(rows, shown.subject, shown.class_index),
        "rank_identity": rank_identity(rows, encoder.embed_images(shown.lookalikes), shown),
    }
    if isinstance(encoder, ClipEncoder):
        measures |= measure_prompts(encoder, shown)
    return measures


def tell_apart(embeddings: Floats, subjects: Ints, classes: Ints) -> dict[str, float]:
    """The cosines of a subject's images with one another and with those of other subjects.

    Args:
        embeddings: (n, d) unit vectors. subjects, classes: (n,) integers.

    Returns:
        `same`: the mean over subjects of the mean over pairs of different images; `other_of_class` and `other_class`:
        the mean over pairs of subjects of the mean over their pairs of images; `gap`: same - other_of_class;
        `roc_area`: how often a pair of one subject's images has a higher cosine than a pair of two subjects of one
        class, 0..1, ties counting half; `individuals`: how many.
    """
    cosines = (embeddings @ embeddings.T).astype(np.float64)
    names, first, index = np.unique(subjects, return_index=True, return_inverse=True)
    member = np.eye(len(names))[index]
    counts = member.sum(axis=0)
    sums = member.T @ cosines @ member
    same = (np.diag(sums) - member.T @ np.diag(cosines)) / (counts * (counts - 1))
    means = sums / np.outer(counts, counts)
    alike = classes[first][:, None] == classes[first][None]
    other = ~np.eye(len(names), dtype=bool)
    upper = np.triu(np.ones_like(cosines, dtype=bool), 1)
    one, of_class = subjects[:, None] == subjects[None], classes[:, None] == classes[None]
    values = {
        "individuals": float(len(names)),
        "same": float(same.mean()),
        "other_of_class": float(means[alike & other].mean()),
        "other_class": float(means[~alike].mean()),
        "roc_area": roc_area(cosines[upper & one], cosines[upper & of_class & ~one]),
    }
    return {**values, "gap": values["same"] - values["other_of_class"]}


def roc_area(positive: Floats, negative: Floats) -> float:
    """How often a positive value is above a negative one, ties counting half (Mann-Whitney's U over its maximum)."""
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)].sum()
    return float((ranks - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def rank_identity(references: Floats, lookalikes: Floats, shown: Individuals) -> float:
    """Spearman's rank correlation of an encoder's score with the true likeness to a subject, -1..1.

    One point for each subject and each individual on the way from it to a stranger of its class, as a benchmark has one
    for each subject and method: the mean cosine of the individual's images to the subject's references, and the
    individual's likeness to the subject. So scores must rank individuals across subjects, not for one subject alone.

    Args:
        references, lookalikes: the unit vectors (n, d) and (m, d) of the images of `shown`.
    """
    scores = [
        float((row @ references[shown.subject == number].T).mean())
        for row, number in zip(lookalikes, shown.of, strict=True)
    ]
    points = pd.DataFrame({"of": shown.of, "step": shown.step, "score": scores, "likeness": shown.likeness})
    means = points.groupby(["of", "step"]).mean()
    return float(spearmanr(means["score"], means["likeness"]).statistic)


def measure_prompts(encoder: ClipEncoder, shown: Individuals) -> dict[str, float]:
    """How well CLIP-T knows the prompt that an image was drawn for from those that the image cannot obey as well.

    Returns:
        `prompt_right`: how often the image is nearest to its own prompt, 0..1, and the same for each kind of prompt;
        `prompt_roc_area`: how often CLIP-T of an image and its own prompt is above CLIP-T of any image and a wrong
        prompt, 0..1, which is what means over images rest on.
    """
    every = sorted({text for texts in shown.texts for text in texts})
    rows = dict(zip(every, encoder.embed_texts(every), strict=True))
    images = encoder.embed_images(shown.prompted)
    scores = [
        np.stack([rows[text] for text in texts]) @ image for image, texts in zip(images, shown.texts, strict=True)
    ]
    right = pd.Series([int(np.argmax(each)) == 0 for each in scores], dtype=float)
    own, wrong = np.array([each[0] for each in scores]), np.concatenate([each[1:] for each in scores])
    return {
        "prompt_right": float(right.mean()),
        **{f"prompt_right_{kind}": float(share) for kind, share in right.groupby(shown.kinds).mean().items()},
        "prompt_roc_area": roc_area(own, wrong),
    }


def measure_classifier(classifier: Classifier, pool: Pool) -> dict[str, float]:
    """Accuracy of each head, and for outfit and change also over the images that have one."""
    predicted = {name: values.argmax(axis=1) for name, values in classifier.predict(_images(pool)).items()}
    measures = {f"accuracy_{name}": float((predicted[name] == pool.labels[name]).mean()) for name in HEADS}
    for name in ("outfit", "change"):
        has = pool.labels[name] > 0
        if has.any():
            measures[f"accuracy_{name}_where_present"] = float((predicted[name] == pool.labels[name])[has].mean())
    return measures


def _images(pool: Pool) -> list[Image.Image]:
    return [Image.fromarray(np.asarray(image)) for image in pool.images]


def main() -> None:
    """Measures a folder of weights on development individuals, and keeps the measures in its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=MINI_WEIGHTS)
    weights: Path = parser.parse_args().weights
    card = read_json(weights / CARD)
    shown = draw_individuals(IndividualsConfig())
    for name in (name for name in card["models"] if name != "classifier"):
        found = {
            key: round(value, 4)
            for key, value in measure_individuals(read_encoder(weights / f"{name}.safetensors"), shown).items()
        }
        card["models"][name]["measures"] |= found
        print(name, ", ".join(f"{key} {value}" for key, value in found.items()))
    write_json(card, weights / CARD)


if __name__ == "__main__":
    main()
