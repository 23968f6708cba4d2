"""`bdkit push FOLDER USER/NAME`: puts a model on the Hugging Face hub, with a card that says how good it is.

examples:
  bdkit push my-dog user/my-dog --license apache-2.0 --samples out/
  bdkit push my-dog user/my-dog --license apache-2.0 --results results/mini-quick --row blip-diffusion-finetuned
  bdkit push my-dog user/my-dog --license apache-2.0 --dry-run what-would-be-sent/
"""

import argparse
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from bdkit.utils.config import add_dataclass_arguments, config_from_args
from bdkit.utils.errors import InputError
from bdkit.utils.io import check_writable

# A model's folder has one of these
MODEL_FILES = ("bdkit.json", "model_index.json", "*.safetensors", "*.bin")


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """What to send, and what its card says.

    folder: a model, such as `bdkit finetune` leaves
    name: repository on the hub, made if it is not there
    license: licence identifier of the hub, such as apache-2.0 or creativeml-openrail-m
    base_model: hub id of the model that this one was trained from
    results: scored results folder whose table the card shows
    row: row of that table that is this model; none: the only method there is
    dataset: hub id of the results' data set, for .eval_results; none: that of dreambench and dreambench-plus
    samples: folder of images that the card shows; none: a grid of the results
    private: make a private repository
    dry_run: write what would be sent into this folder, and send nothing
    """

    folder: Path = field(metadata={"positional": True, "metavar": "FOLDER"})
    name: str = field(metadata={"positional": True, "metavar": "USER/NAME"})
    license: str = field(metadata={"metavar": "ID"})
    base_model: str | None = field(default=None, metadata={"metavar": "ID"})
    results: Path | None = field(default=None, metadata={"metavar": "DIR"})
    row: str | None = None
    dataset: str | None = field(default=None, metadata={"metavar": "ID"})
    samples: Path | None = field(default=None, metadata={"metavar": "DIR"})
    private: bool = False
    dry_run: Path | None = field(default=None, metadata={"metavar": "DIR"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `PushConfig`."""
    add_dataclass_arguments(parser, PushConfig)


def run(args: argparse.Namespace) -> int:
    """Writes the card, then sends it with the model's files in one commit, or writes all of it to a folder."""
    from eval.report.card import Card, row_of, write_card
    from eval.report.notebook import load_results

    config = config_from_args(PushConfig, args)
    files = model_files(config.folder)
    for label, text in (("the name", config.name), ("--base-model", config.base_model), ("--dataset", config.dataset)):
        if text is not None:
            _check_id(text, label)
    for flag, value in (("--row", config.row), ("--dataset", config.dataset)):
        if value is not None and config.results is None:
            raise InputError(f"{flag} is of --results; give the results folder, or leave it out")
    results = None if config.results is None else load_results(config.results)
    row = None if results is None else row_of(results.results, config.row)
    card = Card(
        name=config.name, folder=config.folder, licence=config.license, base_model=config.base_model, results=results,
        row=row, dataset=config.dataset, samples=config.samples,
    )  # fmt: skip
    if config.dry_run is not None:
        check_writable(config.dry_run, "--dry-run")
        if config.dry_run.is_dir() and any(config.dry_run.iterdir()):
            raise InputError(f"{config.dry_run} already holds something; give --dry-run another folder")
    with tempfile.TemporaryDirectory(prefix="bdkit-push-") as temporary:
        work = Path(temporary)
        cards = {path.relative_to(work).as_posix(): path for path in write_card(card, work)}
        sent = {**files, **cards}
        if results is not None and not any(name.startswith(".eval_results") for name in cards):
            print(f"No .eval_results: the hub has no data set of {results.results.suite.name} known here (--dataset).")
        if config.dry_run is None:
            print(f"{send(sent, config.name, private=config.private)} has {len(sent)} files.")
            return 0
        for name, path in sent.items():
            target = config.dry_run / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        print(f"{config.dry_run} has the {len(sent)} files that would be sent to {config.name}.")
    return 0


def model_files(folder: Path) -> dict[str, Path]:
    """A model folder's files by their path in it, without hidden ones. InputError for what is no model's folder."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a model's, such as `bdkit finetune` leaves")
    if (folder / "scores.csv").exists() or (folder / "scores.parquet").exists():
        raise InputError(f"{folder} is a results folder; give a model's folder, and this one with --results")
    if not any(path for pattern in MODEL_FILES for path in folder.glob(pattern)):
        raise InputError(f"{folder} holds no model; give a folder such as `bdkit finetune` leaves")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path for name, path in names.items() if not any(part.startswith(".") for part in name.split("/"))}


def send(files: dict[str, Path], name: str, *, private: bool = False) -> str:
    """Sends files to a model repository in one commit, makes the repository if need be, and returns its address.

    Raises InputError for a missing or refused token, a name the hub refuses, and when it cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if get_token() is None:
        raise InputError("there is no token for the hub; run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    try:
        url = api.create_repo(name, exist_ok=True, private=private or None)
        operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=file) for path, file in files.items()]
        api.create_commit(name, operations, commit_message="Upload by bdkit push")
    except OfflineModeIsEnabled:
        raise InputError("HF_HUB_OFFLINE is set, so nothing is sent; unset it, or use --dry-run") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise InputError(f"the hub refuses to write {name} ({status}); use a token that may write there") from None
        line = (error.server_message or str(error)).strip().splitlines()[0]
        raise InputError(f"the hub refuses {name} ({status}): {line}") from None
    except Exception as error:
        # huggingface_hub sends by httpx, in newer versions by httpx2
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in ("httpx", "httpx2"):
            raise
        raise InputError(f"the hub cannot be reached ({type(error).__name__}); try again with a network") from None
    return str(url)


def _check_id(name: str, label: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        if "/" not in name:
            raise HFValidationError
        validate_repo_id(name)
    except HFValidationError:
        raise InputError(f"{label} {name!r} is no hub id; write it like user/name") from None
