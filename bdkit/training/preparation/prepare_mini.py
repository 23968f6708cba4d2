"""The mini world as shards: lossless, with exact alpha, in the order of the corpus."""

import json
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bdkit.miniworld.captions import caption, caption_template
from bdkit.miniworld.render import render
from bdkit.training.pretraining.corpus import CorpusConfig, corpus_scene
from bdkit.training.pretraining.matting import matte_of_scene
from bdkit.training.shards.files import pack
from bdkit.training.shards.jobs import Item
from bdkit.training.shards.write import write_shards
from bdkit.utils.images import encode

PART = 256  # scenes a job


def prepare_mini(
    config: CorpusConfig,
    out: str,
    *,
    mattes: int = 0,
    shard_mb: float = 256,
    workers: int | None = None,
    executor: Executor | None = None,
    work: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Writes the scenes of a corpus; returns what dataset.json holds.

    A record holds `png` and `alpha.png`; where the corpus keeps a scene without its outfit or change, too, `plain.png`
    and `plain_alpha.png`; its json has the corpus's three texts: template, detail, subject (and caption, the template
    with the noun).

    Args:
        mattes: so many of the first scenes also hold `foreground.png` and `matte.png`, by closed-form matting.
    """
    settings = asdict(config) | {"images": "mini", "shard_mb": shard_mb} | ({"mattes": mattes} if mattes else {})
    starts = range(0, config.scenes, PART)
    return write_shards(
        prepare_mini_part,
        [(config, start, min(PART, config.scenes - start), mattes) for start in starts],
        out,
        settings=settings,
        shard_bytes=round(shard_mb * 1e6),
        total=config.scenes,
        workers=workers,
        executor=executor,
        work=work,
        progress=progress,
    )


def prepare_mini_part(config: CorpusConfig, first: int, count: int, mattes: int = 0) -> list[Item]:
    """Scenes `first` to `first + count - 1`."""
    return [_item(config, index, matted=index < mattes) for index in range(first, first + count)]


def _item(config: CorpusConfig, index: int, *, matted: bool) -> Item:
    scene, rng = corpus_scene(config, index)
    drawn, noun = render(scene), scene.subject.class_noun
    template, detail = caption_template(scene, rng), caption(scene, rng, detail=True)
    texts = {"caption": template.replace("{}", noun), "subject": noun, "template": template, "detail": detail}
    details: dict[str, Any] = {**texts, "source": f"scene {index}", "width": 64, "height": 64}
    files = {"png": _png(drawn.image), "alpha.png": _png(drawn.alpha)}
    if config.plain and (scene.outfit or scene.change):
        plain = render(replace(scene, outfit=None, change=None))
        files |= {"plain.png": _png(plain.image), "plain_alpha.png": _png(plain.alpha)}
    elif matted:
        foreground, alpha = matte_of_scene(drawn.image, drawn.alpha)
        files |= {"foreground.png": _png(foreground), "matte.png": _png(alpha)}
    key = f"{index:09d}"
    record = pack(key, {"json": json.dumps(details, ensure_ascii=False).encode(), **files})
    return Item(row=index, key=key, source=f"scene {index}", record=record)


def _png(pixels: np.ndarray) -> bytes:
    return encode(Image.fromarray(pixels), "PNG")
