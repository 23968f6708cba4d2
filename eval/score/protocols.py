"""The scoring protocols as data: which networks score, on what pixels, against which references and texts.

Numbers of two protocols are not comparable: re-runs of one method under different ones differ by up to 0.2 DINO. Every
variant seen in public code has a name here, so that a published number can be matched, and every score carries it.
`dreambench` is what most published tables use; `mini` is for the procedural world and works offline.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bdkit.utils.errors import InputError
from bdkit.utils.images import CLIP_MEAN, CLIP_STD
from bdkit.utils.seeds import derive_seed
from dreambench.suites import Prompt, Suite
from eval.results_dir import ImageId

DEFAULT_TOKEN = "sks"
DEFAULT = "dreambench"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROPERTY_PROMPT = re.compile(r"a (.+) \{\} \{\}")
Triple = tuple[float, float, float]
References = Literal["all", "conditioning", "random"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image reaches a network: resized (PIL, antialiased) and cropped, then (x / 255 - mean) / std.

    short_side: pixels of the short side before the centre crop of `crop` x `crop`; None: the image is squashed to
        that size, whatever its shape
    """

    short_side: int | None
    crop: int
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    mean: Triple
    std: Triple

    def __str__(self) -> str:
        if self.short_side is None:
            return f"squashed to {self.crop} x {self.crop}, {self.resample}"
        return f"short side to {self.short_side}, {self.resample}, centre crop {self.crop}"


@dataclass(frozen=True, kw_only=True)
class ScoringProtocol:
    """How images are scored.

    dino_model, clip_model: the networks, by their names in `eval.score.encoders.ENCODERS`; dino, clip: their pixels
    clip_pretrained: open_clip's name of CLIP's weights
    weights: from a public hub, or shipped with this package
    references: which of the subject's real images each image is compared with: "all"; "conditioning", the one that
        it was made from (a manifest's column `reference`, else the first); "random", one drawn from the image's ids
    clip_t_text: "class", the prompt with the class noun; "token", with the method's token before it; "background", the
        prompt's words without article, token and class noun; "rewritten", with "a red dog" as "a dog, red"
    clip_t_scale: CLIP-T is this times the cosine; clip_t_clamped: then at least 0
    samples_per_prompt: images expected for each prompt; None: as many as the suite has
    background: "removed": images and references have theirs cut out (transparent) before they are scored
    """

    name: str
    summary: str
    dino_model: str
    dino: Preprocessing
    clip_model: str
    clip_pretrained: str
    clip: Preprocessing
    weights: Literal["hub", "shipped"] = "hub"
    references: References = "all"
    clip_t_text: Literal["class", "token", "background", "rewritten"] = "class"
    clip_t_scale: float = 1.0
    clip_t_clamped: bool = False
    samples_per_prompt: int | None = None
    background: Literal["kept", "removed"] = "kept"

    def text(self, prompt: Prompt, class_noun: str, token: str = DEFAULT_TOKEN) -> str:
        """The text that CLIP-T compares the images of a prompt with."""
        if self.clip_t_text == "token":
            return " ".join(prompt.template.format(token, class_noun).split())
        if self.clip_t_text == "background":
            words = prompt.template.format("", "").split()
            return " ".join(words[1:] if words[:1] in (["a"], ["an"]) else words)
        if self.clip_t_text == "rewritten":
            return replace(prompt, template=rewritten(prompt.template)).text(class_noun)
        return prompt.text(class_noun)

    def apply_to(self, suite: Suite) -> Suite:
        """The suite with as many images a prompt as the protocol expects."""
        if self.samples_per_prompt is None:
            return suite
        return replace(suite, samples_per_prompt=self.samples_per_prompt)


def rewritten(template: str) -> str:
    """ "a red {} {}" as "a {} {}, red"; other templates as they are."""
    match = PROPERTY_PROMPT.fullmatch(template)
    return template if match is None else f"a {{}} {{}}, {match[1]}"


MINI_PIXELS = Preprocessing(short_side=64, crop=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CLIP_PIXELS = Preprocessing(short_side=224, crop=224, mean=CLIP_MEAN, std=CLIP_STD)
DINO_PIXELS = Preprocessing(short_side=256, crop=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_DREAMBENCH = ScoringProtocol(
    name="dreambench",
    summary="what most published DreamBench tables use",
    dino_model="vit_small_patch16_224.dino",
    dino=DINO_PIXELS,
    clip_model="ViT-B-32-quickgelu",
    clip_pretrained="openai",
    clip=CLIP_PIXELS,
)


def _variant(name: str, summary: str, **changes: Any) -> ScoringProtocol:
    return replace(_DREAMBENCH, name=name, summary=summary, **changes)


PROTOCOLS: dict[str, ScoringProtocol] = {
    "dreambench": _DREAMBENCH,
    "dino-s8": _variant("dino-s8", "DINO ViT-S/8", dino_model="vit_small_patch8_224.dino"),
    "dino-squash": _variant(
        "dino-squash",
        "DINO on the whole image, out of proportion",
        dino=replace(DINO_PIXELS, short_side=None, resample="bilinear"),
    ),
    "dino-248": _variant("dino-248", "DINO with timm's own transform", dino=replace(DINO_PIXELS, short_side=248)),
    "one-reference": _variant(
        "one-reference", "against the image that each was made from alone", references="conditioning"
    ),
    "random-reference": _variant("random-reference", "against one reference drawn at random", references="random"),
    "text-with-token": _variant("text-with-token", "CLIP-T's text has the method's token", clip_t_text="token"),
    "text-background": _variant(
        "text-background", "CLIP-T's text has only what the prompt adds to the subject", clip_t_text="background"
    ),
    "text-rewritten": _variant(
        "text-rewritten", "images made for, and judged by, 'a dog, red' for 'a red dog'", clip_t_text="rewritten"
    ),
    "clip-t-x100": _variant("clip-t-x100", "CLIP-T times 100", clip_t_scale=100.0),
    "clip-score": _variant(
        "clip-score", "CLIP-T as CLIPScore (arXiv 2104.08718)", clip_t_scale=2.5, clip_t_clamped=True
    ),
    "six-samples": _variant("six-samples", "six images a prompt", samples_per_prompt=6),
    "no-background": _variant(
        "no-background", "backgrounds cut out before scoring; not comparable with anything else", background="removed"
    ),
    "dreambench++": _variant(
        "dreambench++",
        "the defaults of DreamBench++'s code, but for its factor 100 on every score",
        dino_model="vit_small_patch8_224.dino",
        references="conditioning",
    ),
    "mini": ScoringProtocol(
        name="mini",
        summary="small networks for the procedural world, shipped with the package",
        dino_model="dino.safetensors",
        dino=MINI_PIXELS,
        clip_model="clip.safetensors",
        clip_pretrained="mini",
        clip=MINI_PIXELS,
        weights="shipped",
    ),
}


def reference_pairs(which: References, image: ImageId, given: int | None, size: int) -> NDArray[np.bool_]:
    """(r,) which of a subject's `size` references an image is compared with; given: the one that it was made from."""
    if which == "all":
        return np.ones(size, dtype=bool)
    chosen = given or 0
    if which == "random":
        chosen = derive_seed("reference", image.subject, image.prompt, image.sample, image.seed_set) % size
    return np.arange(size) == chosen


def oracle_pairs(which: References, subject: str, size: int, with_self: bool) -> NDArray[np.bool_]:
    """(r, r) which reference each real image of a subject (row) is compared with."""
    itself = np.eye(size, dtype=bool)
    pairs = np.ones((size, size), dtype=bool)
    if which == "conditioning":
        pairs = np.tile(np.arange(size) == 0, (size, 1))
    elif which == "random":
        others = [[column for column in range(size) if with_self or column != row] for row in range(size)]
        for row, columns in enumerate(others):
            if columns:
                chosen = columns[derive_seed("reference", subject, -1, row, 0) % len(columns)]
                pairs[row] = np.arange(size) == chosen
    return pairs if with_self else pairs & ~itself


def find_protocol(name: str) -> ScoringProtocol:
    """The protocol of a name."""
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def settings(protocol: ScoringProtocol) -> dict[str, str]:
    """What a protocol fixes, in words, by the names of its fields."""
    values = {field.name: getattr(protocol, field.name) for field in fields(protocol)}
    words = {name: str(value) for name, value in values.items() if name not in ("name", "summary")}
    words["samples_per_prompt"] = words["samples_per_prompt"].replace("None", "the suite's")
    return {**words, "clip_t_clamped": "at 0" if protocol.clip_t_clamped else "no"}


def differences(protocol: ScoringProtocol) -> dict[str, tuple[str, str]]:
    """Setting -> (of this protocol, of `dreambench`) where the two differ."""
    default = settings(PROTOCOLS[DEFAULT])
    return {name: (value, default[name]) for name, value in settings(protocol).items() if value != default[name]}


def check_one_protocol(named: Mapping[str, Iterable[str]]) -> None:
    """Raises InputError when scores that are to stand in one table were made by more than one protocol.

    named: where the scores are -> the protocols that they carry
    """
    sources: dict[str, str] = {}
    for source, protocols in named.items():
        for protocol in protocols:
            sources.setdefault(protocol, source)
    if len(sources) > 1:
        listed = ", ".join(f"{protocol!r} in {source}" for protocol, source in sorted(sources.items()))
        raise InputError(
            f"a table never mixes protocols, and these scores have several: {listed}; score all images with one"
        )
