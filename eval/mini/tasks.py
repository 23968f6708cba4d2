"""What each of the four mini evaluators learns from: its network, its batches and its loss."""

from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from bdkit.training.config import TrainingConfig
from eval.mini.networks import (
    CLASSIFIER_CONFIG,
    CLIP_CONFIG,
    DINO_CONFIG,
    HEADS,
    IDENTITY_CONFIG,
    WordTokenizer,
    build_network,
)
from eval.mini.pool import IntArray, Material
from eval.mini.views import crop, degrade, jiggle, light, to_tensor

Result = tuple[Tensor, dict[str, Tensor]]


class Task(nn.Module):
    """One evaluator in training: what `bdkit.training.loop.TrainingLoop` trains, and the batches for it.

    Attributes:
        network: the part that is shipped; `config` is its configuration.
    """

    network: nn.Module

    def __init__(self, material: Material, training: TrainingConfig, config: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(training.seed)
        self.pool, self.training_config, self.config = material.train, training, config
        self.network = build_network(config)

    def batch(self, index: int, generator: torch.Generator) -> Any:
        """The batch of a step; depends on the seed and the index alone."""
        raise NotImplementedError

    def forward(self, batch: Any, generator: torch.Generator) -> Result:
        """The loss of a batch."""
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """Called after each step of the optimiser with the number of finished steps."""

    def rng(self, index: int) -> np.random.Generator:
        """Decides which images make a batch."""
        return np.random.default_rng([self.training_config.seed, index])

    def images(self, rows: IntArray) -> Tensor:
        """Rows of the pool as a batch (n, 3, 64, 64) in -1..1."""
        return to_tensor(self.pool.images[rows])


class IdentityTask(Task):
    """InfoNCE over instances: two images of one subject attract, the batch holds others of the same few classes."""

    temperature = 0.1
    classes = 4

    def __init__(self, material: Material, training: TrainingConfig) -> None:
        super().__init__(material, training, IDENTITY_CONFIG)

    def batch(self, index: int, generator: torch.Generator) -> Tensor:
        """First images of instances, then their second images."""
        rng, size = self.rng(index), self.training_config.batch_size
        rows = np.concatenate(self.pool.two_of_each(self.pool.few_classes(size // 2, self.classes, rng), rng))
        return degrade(jiggle(self.images(rows), 0.12, 0.12, generator), generator)

    def forward(self, batch: Tensor, generator: torch.Generator) -> Result:
        """Cross-entropy of finding the other image of the same instance among the batch."""
        z = F.normalize(self.network(batch).float(), dim=1)
        n = len(batch)
        logits = (z @ z.T / self.temperature).masked_fill(torch.eye(n, dtype=torch.bool), float("-inf"))
        return F.cross_entropy(logits, (torch.arange(n) + n // 2) % n), {}


class ClassifierTask(Task):
    """Class, context, outfit and change of damaged images."""

    def __init__(self, material: Material, training: TrainingConfig) -> None:
        super().__init__(material, training, CLASSIFIER_CONFIG)

    def batch(self, index: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Images and the labels of each head."""
        rows = self.rng(index).integers(len(self.pool.images), size=self.training_config.batch_size)
        labels = {name: torch.from_numpy(self.pool.labels[name][rows]) for name in HEADS}
        return degrade(jiggle(self.images(rows), 0.12, 0.12, generator), generator), labels

    def forward(self, batch: tuple[Tensor, dict[str, Tensor]], generator: torch.Generator) -> Result:
        """The sum of the four cross-entropies; most images have no outfit, so that head counts double."""
        x, labels = batch
        logits = self.network(x)
        losses = {name: F.cross_entropy(logits[name].float(), labels[name]) for name in HEADS}
        return losses["class"] + losses["context"] + 2 * losses["outfit"] + losses["change"], {}


class ClipTask(Task):
    """open_clip's CLIP and its loss on images and captions.

    A batch decides what is learned, because the easiest difference within it is enough: `individuals_share` of the
    batches hold individuals of one class, each with a caption that describes it; the rest images of all classes. Of
    those, at first most hold a single context, later few: among many contexts the context alone tells the pairs apart
    and classes are never learned; among one alone, contexts are not.
    """

    single_context_shares = (0.65, 0.15)  # in the first and in the second half of the training
    individuals_share = 0.35
    detail_share = 0.4
    unknown_share = 0.02

    def __init__(self, material: Material, training: TrainingConfig) -> None:
        super().__init__(material, training, {**CLIP_CONFIG, "words": material.words})
        self.contrast = open_clip.ClipLoss()
        tokenizer = WordTokenizer(material.words, CLIP_CONFIG["text"]["context_length"])
        captions = self.pool.captions
        depth = max(len(texts) for texts in captions)
        self.tokens = [tokenizer([texts[min(k, len(texts) - 1)] for texts in captions]) for k in range(depth)]
        self.last = tokenizer.end

    def batch(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and token ids; some captions describe the individual, a few words become unknown."""
        rng, size = self.rng(index), self.training_config.batch_size
        share = self.single_context_shares[int(index >= self.training_config.steps / 2)]
        individuals = rng.random() < self.individuals_share
        if individuals:
            rows, _ = self.pool.two_of_each(self.pool.few_classes(size, 1, rng), rng)
        else:
            rows = self.pool.few_contexts(size, 1 if rng.random() < share else 21, rng)
        plain, detailed = self.tokens[0][rows], self.tokens[rng.integers(1, len(self.tokens))][rows]
        describes = torch.rand(len(rows), 1, generator=generator) < (1.0 if individuals else self.detail_share)
        tokens = torch.where(describes, detailed, plain)
        unknown = torch.rand(tokens.shape, generator=generator) < self.unknown_share
        tokens = tokens.masked_fill(unknown & (tokens > 2) & (tokens < self.last), 2)
        return degrade(jiggle(self.images(rows), 0.1, 0.1, generator), generator, share=0.3), tokens

    def forward(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Result:
        """The symmetric contrastive loss."""
        image, text, scale = self.network(*batch)
        return self.contrast(image.float(), text.float(), scale.float()), {}

    def after_step(self, step: int) -> None:
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


def spread(embeddings: Tensor) -> Tensor:
    """KoLeo, DINOv2's spread-out regulariser: minus the mean log distance of each unit vector to its nearest other.

    Args:
        embeddings: (B, d), not normalised; B at least 2.
    """
    unit = F.normalize(embeddings.float(), dim=1)
    cosines = (unit @ unit.T).masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -1.0)
    nearest = unit[cosines.argmax(dim=1)]
    return -(F.pairwise_distance(unit, nearest) + 1e-8).log().mean()


class DinoTask(Task):
    """Self-distillation without labels: a student sees all crops, a teacher (its moving average) the two large ones.

    No term is contrastive: nothing is told which images are of different instances. What keeps individuals of one class
    apart is Sinkhorn-Knopp over a batch of few classes, and `spread`; what keeps one individual together, besides the
    distillation, is the cosine of the student's vector of a large view to the teacher's of the other (as in BYOL).

    # Paper (DINO): both large crops come from one image; here: from two images of the same instance, as from two frames
    of a video, because crops of one image share their background, and in minutes of training nothing but that is
    learned. Batches hold few classes, and crops are 64 and 32 pixels wide, the large ones as in use.
    # Paper (DINO): a running mean centres the teacher; here: Sinkhorn-Knopp and KoLeo, as in DINOv2.
    """

    classes = 4
    prototypes = 512
    large, small = 64, 32
    local_crops = 2
    student_temperature = 0.1
    teacher_temperature = 0.02
    momentum = 0.9
    spread_weight = 0.3
    agree_weight = 1.0

    def __init__(self, material: Material, training: TrainingConfig) -> None:
        super().__init__(material, training, DINO_CONFIG)
        width = self.config["stem"][-1]
        self.student, self.head = build_network(self.config), DinoHead(width, self.prototypes)
        self.teacher_head = DinoHead(width, self.prototypes)
        self.network.load_state_dict(self.student.state_dict())  # the teacher is what is shipped
        self.teacher_head.load_state_dict(self.head.state_dict())
        self.network.requires_grad_(False)
        self.teacher_head.requires_grad_(False)

    def batch(self, index: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The two large views of each instance, and its small ones, (views x batch, 3, side, side)."""
        rng = self.rng(index)
        chosen = self.pool.few_classes(self.training_config.batch_size, self.classes, rng)
        views = [self.images(rows) for rows in self.pool.two_of_each(chosen, rng)]
        large = [light(crop(v, self.large, (0.6, 1.0), True, generator), 0.1, generator) for v in views]
        large = [degrade(v, generator, share=0.3) for v in large]
        small = [
            light(crop(views[k % 2], self.small, (0.2, 0.5), True, generator), 0.1, generator)
            for k in range(self.local_crops)
        ]
        return torch.cat(large), torch.cat(small)

    def forward(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Result:
        """Cross-entropy of every student view against the teacher's other large view, `spread`, and agreement."""
        large, small = batch
        size = len(large) // 2
        with torch.no_grad():
            known = self.network(large).float()
            raw = self.teacher_head(known).float()
            targets = sinkhorn(raw / self.teacher_temperature).chunk(2)
        seen = self.student(large)
        views = self.head(torch.cat([seen, self.student(small)])).float()
        views = (views / self.student_temperature).log_softmax(dim=1).split(size)
        terms = [-(t * v).sum(dim=1).mean() for i, t in enumerate(targets) for j, v in enumerate(views) if i != j]
        distill = torch.stack(terms).mean()
        koleo = torch.stack([spread(view) for view in seen.chunk(2)]).mean()
        agree = -F.cosine_similarity(seen.float(), torch.cat(known.chunk(2)[::-1]), dim=1).mean()
        loss = distill + self.spread_weight * koleo + self.agree_weight * agree
        return loss, {"distill": distill.detach(), "spread": koleo.detach(), "agree": agree.detach()}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Moves the teacher towards the student, ever more slowly."""
        progress = (step - 1) / self.training_config.steps
        momentum = 1 - (1 - self.momentum) * (1 + np.cos(np.pi * progress)) / 2
        for teacher, student in ((self.network, self.student), (self.teacher_head, self.head)):
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, float(1 - momentum))

    def get_extra_state(self) -> list[Tensor]:
        """The teacher's weights, for a checkpoint: no gradient trains them."""
        return [p.detach() for p in (*self.network.parameters(), *self.teacher_head.parameters())]

    @torch.no_grad()
    def set_extra_state(self, state: list[Tensor]) -> None:
        """Takes a teacher's weights."""
        for parameter, saved in zip((*self.network.parameters(), *self.teacher_head.parameters()), state, strict=True):
            parameter.copy_(saved)


TASKS: dict[str, Any] = {
    "identity": IdentityTask,
    "classifier": ClassifierTask,
    "clip": ClipTask,
    "dino": DinoTask,
}
