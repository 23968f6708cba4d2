"""`bdkit prepare`: images with captions -> shards to train on.

examples:
  bdkit prepare photos/ --captions photos.csv --out shards --contact-sheet 20
  bdkit prepare photos/ --captions photos.csv --masks masks/ --out shards
  bdkit prepare "s3://bucket/pairs-*.tar" --masks none --out pairs
  bdkit prepare photos/ --captions photos.csv --out shards --executor ray --address 10.0.0.1:6379
  bdkit prepare mini --scenes 10000 --out mini-shards
  bdkit prepare mini --corpus stage2 --mattes 512 --out mini-subjects
"""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bdkit.training.preparation.prepare import PrepareConfig, prepare_images
from bdkit.training.preparation.sending import SendingFiles
from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png
from bdkit.utils.ray_executor import ray_executor


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
    executor: who works: processes of this machine, or ray, the machines of a Ray cluster (the images are sent to them)
    address: HOST:PORT of the Ray cluster's head, or auto; none: RAY_ADDRESS, else a Ray of this machine alone
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
    executor: Literal["processes", "ray"] = "processes"
    address: str | None = None
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
        if self.address is not None and self.executor != "ray":
            raise InputError("--address is of --executor ray alone; leave it out")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `PrepareCommandConfig` and `PrepareConfig`."""
    add_dataclass_arguments(parser, PrepareCommandConfig)
    add_dataclass_arguments(parser, PrepareConfig)


def run(args: argparse.Namespace) -> int:
    """Prepares what is not prepared yet, and says what became of it."""
    command, config = config_from_args(PrepareCommandConfig, args), config_from_args(PrepareConfig, args)
    make = _mini if command.images == "mini" else _images
    if command.executor == "ray":
        with ray_executor(command.address, command.workers, use_gpus=config.device != "cpu") as cluster:
            result = make(command, config, workers=cluster.workers, executor=SendingFiles(cluster))
    else:
        result = make(command, config, workers=command.workers)
    reasons = "".join(f"\n  {count} {reason}" for reason, count in result["rejected"].items())
    megabytes = sum(shard["bytes"] for shard in result["shards"]) / 1e6
    print(
        f"{command.out} holds {result['accepted']} of {result['read']} images in {len(result['shards'])} shards "
        f"({megabytes:.1f} MB).{' Rejected, see rejected.csv:' if reasons else ''}{reasons}"
    )
    if command.contact_sheet is not None:
        _contact_sheet(command.out, command.contact_sheet)
    return 0


def _images(command: PrepareCommandConfig, config: PrepareConfig, **work: Any) -> dict[str, Any]:
    return prepare_images(command.images, command.captions, command.out, config, work=command.work, **work)


def _mini(command: PrepareCommandConfig, config: PrepareConfig, **work: Any) -> dict[str, Any]:
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
        work=command.work,
        **work,
    )


def _contact_sheet(out: str, count: int) -> None:
    from bdkit.training.shards.contact_sheet import contact_sheet
    from bdkit.training.shards.files import is_remote
    from bdkit.training.shards.read import Shards

    path = Path("contact_sheet.png") if is_remote(out) else Path(out) / "contact_sheet.png"
    write_png(contact_sheet(Shards(out), count), path)
    print(f"The contact sheet is {path}.")
