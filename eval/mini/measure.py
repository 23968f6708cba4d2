"""How good a mini evaluator is, on images of subjects that it never saw."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from eval.mini.networks import HEADS, WordTokenizer, load_network
from eval.mini.pool import Material, Pool
from eval.mini.tasks import degrade, to_tensor
from eval.score.encoders import Classifier, ClipEncoder, Encoder
from eval.score.protocols import PROTOCOLS

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


def measure(path: Path, material: Material) -> dict[str, float]:
    """The measures of a weights file on the held-out subjects."""
    network, config = load_network(path)
    how, checkpoint, kind = PROTOCOLS["mini"].dino, {"file": path.name}, config["kind"]
    if kind == "classifier":
        return measure_classifier(Classifier(network, how, "classifier", checkpoint), material.held_out)
    if kind != "clip":
        return measure_embeddings(Encoder(network, how, kind, checkpoint), material.held_out)
    tokenizer = WordTokenizer(config["words"], config["text"]["context_length"])
    clip = ClipEncoder(network, PROTOCOLS["mini"].clip, kind, checkpoint, tokenizer=tokenizer)
    measures = measure_embeddings(clip, material.held_out)
    return {**measures, **measure_clip(clip, material.held_out, material.prompts)}


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
