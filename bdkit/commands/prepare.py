"""`bdkit prepare`: images with captions -> shards to train on.

examples:
  bdkit prepare photos/ --captions photos.csv --out shards --contact-sheet 20
  bdkit prepare photos/ --captions photos.csv --masks masks/ --out shards
  bdkit prepare "s3://bucket/pairs-*.tar" --masks none --out pairs
  bdkit prepare mini --scenes 10000 --out mini-shards
  bdkit prepare mini --corpus stage2 --mattes 512 --out mini-subjects
"""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bdkit.training.preparation.prepare import PrepareConfig, prepare_images
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png


@dataclass(frozen=True, kw_only=True)
class PrepareCommandConfig:
    """Input and output.

    images: folder that the paths in --captions start from, or tars in webdataset form (one, a folder or a pattern),
        local or an fsspec URL; or mini: the procedural mini world
    captions: CSV, JSONL or parquet with the columns path, caption, subject and, if any, box, mask and key
    out: folder to write, local or an fsspec URL; the same command resumes a run that was stopped
    scenes: of mini, how many (default: as many as its pre-training has)
    corpus: of mini, whose images: those of stage1, stage2 or stage2-joint (default: stage1)
    mattes: of mini, how many scenes get a closed-form matte (default: 0)
    workers: processes (default: one a core)
    work: folder for unfinished work, where --out is a URL
    contact_sheet: show this many random records in contact_sheet.png, in --out
    """

    images: str = field(metadata={"positional": True})
    captions: str | None = None
    out: str
    scenes: int | None = None
    corpus: Literal["stage1", "stage2", "stage2-joint"] | None = None
    mattes: int | None = None
    workers: int | None = None
    work: Path | None = None
    contact_sheet: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("scenes", self.scenes), ("workers", self.workers), ("contact-sheet", self.contact_sheet)):
            if value is not None and value < 1:
                raise InputError(f"--{name} is {value}; give at least 1")
        if self.images == "mini" and self.captions is not None:
            raise InputError("the mini world has captions of its own; leave --captions out")
        if self.mattes is not None and self.mattes < 0:
            raise InputError(f"--mattes is {self.mattes}; give at least 0")
        for name in ("scenes", "corpus", "mattes"):
            if self.images != "mini" and getattr(self, name) is not None:
                raise InputError(f"--{name} goes with mini only; leave it out")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `PrepareCommandConfig` and `PrepareConfig`."""
    add_dataclass_arguments(parser, PrepareCommandConfig)
    add_dataclass_arguments(parser, PrepareConfig)


def run(args: argparse.Namespace) -> int:
    """Prepares what is not prepared yet, and says what became of it."""
    command, config = config_from_args(PrepareCommandConfig, args), config_from_args(PrepareConfig, args)
    result = (_mini if command.images == "mini" else _images)(command, config)
    reasons = "".join(f"\n  {count} {reason}" for reason, count in result["rejected"].items())
    megabytes = sum(shard["bytes"] for shard in result["shards"]) / 1e6
    print(
        f"{command.out} holds {result['accepted']} of {result['read']} images in {len(result['shards'])} shards "
        f"({megabytes:.1f} MB).{' Rejected, see rejected.csv:' if reasons else ''}{reasons}"
    )
    if command.contact_sheet is not None:
        _contact_sheet(command.out, command.contact_sheet)
    return 0


def _images(command: PrepareCommandConfig, config: PrepareConfig) -> dict[str, Any]:
    return prepare_images(
        command.images, command.captions, command.out, config, workers=command.workers, work=command.work
    )


def _mini(command: PrepareCommandConfig, config: PrepareConfig) -> dict[str, Any]:
    from bdkit.training.preparation.prepare_mini import prepare_mini
    from bdkit.training.pretraining.presets import PRETRAIN

    mini = PRETRAIN["mini"]
    corpora = {"stage1": mini.corpus, "stage2": mini.subject_corpus, "stage2-joint": mini.joint_corpus}
    corpus = corpora[command.corpus or "stage1"]
    return prepare_mini(
        corpus if command.scenes is None else replace(corpus, scenes=command.scenes),
        command.out,
        mattes=command.mattes or 0,
        shard_mb=config.shard_mb,
        workers=command.workers,
        work=command.work,
    )


def _contact_sheet(out: str, count: int) -> None:
    from bdkit.training.shards.contact_sheet import contact_sheet
    from bdkit.training.shards.files import is_remote
    from bdkit.training.shards.read import Shards

    path = Path("contact_sheet.png") if is_remote(out) else Path(out) / "contact_sheet.png"
    write_png(contact_sheet(Shards(out), count), path)
    print(f"The contact sheet is {path}.")
