"""What each of the four mini evaluators learns from: its network, its loss for one step, and its measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from eval.mini.augment import crop, degrade, jiggle, light, to_tensor
from eval.mini.networks import CLASSIFIER_CONFIG, CLIP_CONFIG, DINO_CONFIG, HEADS, IDENTITY_CONFIG, WordTokenizer
from eval.mini.networks import build_network as build

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Rendered images and their ground truth.

    Args:
        images: (n, 64, 64, 3) uint8.
        subject: (n,) which instance; every instance has at least two images.
        labels: for each of class, context, outfit and change the index (n,).
        captions: n tuples of at least one caption; the first is plain, later ones may name colours and parts.
    """

    images: npt.NDArray[np.uint8]
    subject: IntArray
    labels: dict[str, IntArray]
    captions: list[tuple[str, ...]]
    _rows: dict[int, IntArray] = field(init=False, repr=False)
    _by_class: dict[int, IntArray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raises ValueError where lengths differ, or an instance has a single image."""
        n = len(self.images)
        lengths = [len(self.subject), len(self.captions), *(len(self.labels[name]) for name in HEADS)]
        if any(length != n for length in lengths):
            raise ValueError(f"{n} images, but ground truth of lengths {lengths}")
        order = np.argsort(self.subject, kind="stable")
        names, starts = np.unique(self.subject[order], return_index=True)
        rows = {int(s): r for s, r in zip(names, np.split(order, starts[1:]), strict=True)}
        if min(len(r) for r in rows.values()) < 2:
            raise ValueError("every instance needs at least two images")
        classes = np.array([self.labels["class"][rows[int(s)][0]] for s in names])
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_by_class", {int(c): names[classes == c] for c in np.unique(classes)})

    def two_of_each(self, subjects: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Two different images of each instance, as row numbers."""
        pairs = np.array([rng.choice(self._rows[int(s)], 2, replace=False) for s in subjects])
        return pairs[:, 0], pairs[:, 1]

    def few_classes(self, n: int, classes: int, rng: np.random.Generator) -> IntArray:
        """About n different instances of a few classes: hard negatives for one another."""
        chosen = rng.choice(list(self._by_class), min(classes, len(self._by_class)), replace=False)
        each = max(n // len(chosen), 1)
        return np.concatenate(
            [rng.choice(self._by_class[c], min(each, len(self._by_class[c])), replace=False) for c in chosen]
        )

    def few_contexts(self, n: int, contexts: int, rng: np.random.Generator) -> IntArray:
        """n rows whose images show a few contexts."""
        known = np.unique(self.labels["context"])
        chosen = rng.choice(known, min(contexts, len(known)), replace=False)
        return rng.choice(np.flatnonzero(np.isin(self.labels["context"], chosen)), n)

    def partners(self, rows: IntArray, share: float, rng: np.random.Generator) -> IntArray:
        """For a share of the rows another image of the same instance, for the rest the row itself."""
        swap = rng.random(len(rows)) < share
        return np.array(
            [rng.choice(self._rows[int(self.subject[r])]) if s else r for r, s in zip(rows, swap, strict=True)]
        )


class Task:
    """One evaluator in training. `nets` holds everything with state, `network` is the part that is kept."""

    config: dict[str, Any]
    nets: nn.ModuleDict

    def __init__(self, pool: Pool, batch: int, seed: int) -> None:
        self.pool, self.batch, self.seed = pool, batch, seed
        torch.manual_seed(seed)

    @property
    def network(self) -> nn.Module:
        """The network that is shipped."""
        return self.nets["network"]

    def trained(self) -> Iterator[nn.Parameter]:
        """The parameters that the optimiser moves."""
        return self.nets.parameters()

    def loss(self, step: int, progress: float) -> Tensor:
        """The loss of step number `step`, `progress` 0..1 of the way; depends on nothing but the seed and the step."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Runs after the optimiser's step."""

    def draws(self, step: int) -> tuple[np.random.Generator, torch.Generator]:
        """The random numbers of one step."""
        return np.random.default_rng([self.seed, step]), torch.Generator().manual_seed(self.seed * 1_000_003 + step)

    def pictures(self, rows: IntArray) -> Tensor:
        """Rows of the pool as a batch."""
        return to_tensor(self.pool.images[rows])


class IdentityTask(Task):
    """InfoNCE over instances: two renderings of one subject attract, the batch holds others of the same few classes."""

    temperature = 0.1
    classes = 4

    def __init__(self, pool: Pool, batch: int, seed: int) -> None:
        super().__init__(pool, batch, seed)
        self.config = IDENTITY_CONFIG
        self.nets = nn.ModuleDict({"network": build(self.config)}).to(memory_format=torch.channels_last)

    def loss(self, step: int, progress: float) -> Tensor:
        """Cross-entropy of finding the other image of the same instance among the batch."""
        rng, generator = self.draws(step)
        rows = np.concatenate(self.pool.two_of_each(self.pool.few_classes(self.batch // 2, self.classes, rng), rng))
        x = degrade(jiggle(self.pictures(rows), 0.12, 0.12, generator), generator)
        z = F.normalize(self.network(x).float(), dim=1)
        n = len(rows)
        logits = (z @ z.T / self.temperature).masked_fill(torch.eye(n, dtype=torch.bool), float("-inf"))
        return F.cross_entropy(logits, (torch.arange(n) + n // 2) % n)


class ClassifierTask(Task):
    """Class, context, outfit and change of damaged images."""

    def __init__(self, pool: Pool, batch: int, seed: int) -> None:
        super().__init__(pool, batch, seed)
        self.config = CLASSIFIER_CONFIG
        self.nets = nn.ModuleDict({"network": build(self.config)}).to(memory_format=torch.channels_last)

    def loss(self, step: int, progress: float) -> Tensor:
        """The sum of the four cross-entropies; most images have no outfit, so that head counts double."""
        rng, generator = self.draws(step)
        rows = rng.integers(len(self.pool.images), size=self.batch)
        logits = self.network(degrade(jiggle(self.pictures(rows), 0.12, 0.12, generator), generator))
        losses = {
            name: F.cross_entropy(logits[name].float(), torch.from_numpy(self.pool.labels[name][rows]))
            for name in HEADS
        }
        return losses["class"] + losses["context"] + 2 * losses["outfit"] + losses["change"]


class ClipTask(Task):
    """open_clip's CLIP and its loss on images and captions."""

    single_context_shares = (0.65, 0.15)
    detail_share = 0.4
    unknown_share = 0.02

    def __init__(self, pool: Pool, batch: int, seed: int, words: list[str]) -> None:
        super().__init__(pool, batch, seed)
        self.config = {**CLIP_CONFIG, "words": words}
        self.nets = nn.ModuleDict({"network": build(self.config)}).to(memory_format=torch.channels_last)
        self.contrast = open_clip.ClipLoss()
        tokenizer = WordTokenizer(words, CLIP_CONFIG["text"]["context_length"])
        depth = max(len(texts) for texts in pool.captions)
        self.tokens = [tokenizer([texts[min(k, len(texts) - 1)] for texts in pool.captions]) for k in range(depth)]
        self.last = tokenizer.end

    def loss(self, step: int, progress: float) -> Tensor:
        """The symmetric contrastive loss; some captions are the detailed ones, a few words become unknown.

        At first most batches hold a single context, later few: among many contexts the context alone tells the pairs
        apart and classes are never learned; among one alone, contexts are not. (A constant share of 0.6 gave 98% of
        classes and 12% of contexts on the held-out evaluator subjects, 0.3 gave 19% and 99%.)
        """
        rng, generator = self.draws(step)
        share = self.single_context_shares[int(progress >= 0.5)]
        contexts = 1 if rng.random() < share else 21
        rows = self.pool.few_contexts(self.batch, contexts, rng)
        plain, detailed = self.tokens[0][rows], self.tokens[rng.integers(1, len(self.tokens))][rows]
        tokens = torch.where(torch.rand(len(rows), 1, generator=generator) < self.detail_share, detailed, plain)
        unknown = torch.rand(tokens.shape, generator=generator) < self.unknown_share
        tokens = tokens.masked_fill(unknown & (tokens > 2) & (tokens < self.last), 2)
        x = degrade(jiggle(self.pictures(rows), 0.1, 0.1, generator), generator, share=0.3)
        image, text, scale = self.network(x, tokens)
        return self.contrast(image.float(), text.float(), scale.float())

    def after_step(self, progress: float) -> None:
        """Keeps the temperature where CLIP keeps it."""
        with torch.no_grad():
            self.network.logit_scale.clamp_(0.0, float(np.log(100.0)))  # type: ignore[operator]


class DinoHead(nn.Module):
    """The projection on which DINO compares views; thrown away after training."""

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 256), nn.BatchNorm1d(256), nn.GELU(), nn.Linear(256, 64))
        self.last = weight_norm(nn.Linear(64, prototypes, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1.0)
        self.last.parametrizations.weight.original0.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, prototypes)."""
        return self.last(F.normalize(self.mlp(x), dim=-1))


def sinkhorn(logits: Tensor, iterations: int = 3) -> Tensor:
    """Probabilities (B, K) of the teacher's logits with every prototype used about equally often (Sinkhorn-Knopp)."""
    q = (logits - logits.max()).exp() + 1e-9
    for _ in range(iterations):
        q = q / q.sum(dim=0, keepdim=True)
        q = q / q.sum(dim=1, keepdim=True)
    return q


class DinoTask(Task):
    """Self-distillation without labels: a student sees all crops, a teacher (its moving average) the two large ones.

    # Paper (DINO): both large crops come from one image; here: for `pair_share` of the images the second comes
    # from another image of the same instance, as from another frame of a video, because crops of one image share
    # their background, and in minutes of training nothing but that is learned. Crops are 48 and 32 pixels wide, so
    # that things are about as large in them as in the images that are scored. Colours are not jittered: they are
    # identity.
    # Paper (DINO): a running mean centres the teacher; here: Sinkhorn-Knopp, as in DINOv2, because batches are small.
    """

    prototypes = 512
    large, small = 48, 32
    local_crops = 3
    pair_share = 1.0
    student_temperature = 0.1
    teacher_temperature = 0.02
    momentum = 0.9

    def __init__(self, pool: Pool, batch: int, seed: int) -> None:
        super().__init__(pool, batch, seed)
        self.config = DINO_CONFIG
        width = self.config["stem"][-1]
        student, head = build(self.config), DinoHead(width, self.prototypes)
        teacher, teacher_head = build(self.config), DinoHead(width, self.prototypes)
        teacher.load_state_dict(student.state_dict())
        teacher_head.load_state_dict(head.state_dict())
        self.nets = nn.ModuleDict(
            {"student": student, "head": head, "network": teacher.requires_grad_(False), "teacher_head": teacher_head}
        )
        teacher_head.requires_grad_(False)
        self.nets.to(memory_format=torch.channels_last)

    def trained(self) -> Iterator[nn.Parameter]:
        """The student and its head."""
        return (p for p in self.nets.parameters() if p.requires_grad)

    def loss(self, step: int, progress: float) -> Tensor:
        """Cross-entropy of every student view against the teacher's other large view, centred and sharpened."""
        rng, generator = self.draws(step)
        rows = rng.integers(len(self.pool.images), size=self.batch)
        first, second = self.pictures(rows), self.pictures(self.pool.partners(rows, self.pair_share, rng))
        large = [light(crop(v, self.large, (0.4, 1.0), True, generator), 0.2, generator) for v in (first, second)]
        large[1] = degrade(large[1], generator, share=0.3)
        small = [
            light(crop(v, self.small, (0.15, 0.45), True, generator), 0.2, generator)
            for v in (first, second, first)[: self.local_crops]
        ]
        with torch.no_grad():
            raw = self.nets["teacher_head"](self.network(torch.cat(large))).float()
            targets = sinkhorn(raw / self.teacher_temperature).chunk(2)
        seen = torch.cat([self.nets["student"](torch.cat(large)), self.nets["student"](torch.cat(small))])
        views = (self.nets["head"](seen).float() / self.student_temperature).log_softmax(dim=1).split(self.batch)
        terms = [-(t * v).sum(dim=1).mean() for i, t in enumerate(targets) for j, v in enumerate(views) if i != j]
        return torch.stack(terms).mean()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Moves the teacher towards the student, ever more slowly."""
        momentum = 1 - (1 - self.momentum) * (1 + np.cos(np.pi * progress)) / 2
        for mine, theirs in (("network", "student"), ("teacher_head", "head")):
            for slow, fast in zip(self.nets[mine].parameters(), self.nets[theirs].parameters(), strict=True):
                slow.lerp_(fast, float(1 - momentum))
