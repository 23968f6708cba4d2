"""What every tab works with: the models in memory, the subjects that can be chosen, and whose turn it is."""

import html
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from torch import Tensor, nn

from bdkit.checkpoints.adapters import learned_words, load_drawable
from bdkit.methods.base import check_class_noun
from bdkit.models.blip_diffusion import BlipDiffusion, require_blip_diffusion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.utils.config import parse_numbers
from bdkit.utils.env import pick_device
from bdkit.utils.errors import InputError
from dreambench.registry import load_suite
from dreambench.suites import Suite
from eval.app.config import AppConfig
from eval.app.sessions import Session, Sessions
from eval.generate.references import load_references

UPLOADED = "your own images"
HELD_OUT = "mini"  # the suite whose subjects can be chosen: no training has seen them
SECONDS_BETWEEN = 0.3  # of progress; a browser that redraws more often slows a model on the same cores
MAX_TEXT = 300
Result = TypeVar("Result")


class Stopped(Exception):
    """The user has stopped what was running, or has closed the page."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is drawn: images with a class word, or a fine-tuned folder.

    name: as it is chosen; suite: of the mini world's
    """

    name: str
    class_noun: str
    images: tuple[Image.Image, ...] = ()
    folder: Path | None = None
    suite: str = ""


@dataclass
class Turn:
    """One piece of work for one page: it can be stopped, shows its progress, and ends in a sentence.

    status: the sentence, as HTML
    """

    session: Session
    progress: Any = None
    status: str = ""
    started: float = field(default_factory=time.monotonic)
    _shown: float = 0.0

    def say(self, text: str, kind: str = "good") -> None:
        """Sets the sentence that the page shows."""
        self.status = sentence(text, kind)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def check(self, share: float | None = None, text: str = "") -> None:
        """Ends the work if the user wants that, else shows how far it is (0..1)."""
        if self.session.stop.is_set():
            raise Stopped
        now = time.monotonic()
        if share is not None and self.progress is not None and now - self._shown > SECONDS_BETWEEN:
            self._shown = now
            self.progress(share, desc=text)

    @contextmanager
    def watching(self, network: nn.Module, calls: int, text: str) -> Iterator[None]:
        """Before each call of a network within the block, such as a U-Net: shows how far the work is, or ends it.

        Args:
            calls: how many there will be.
        """
        done = 0

        def before(*_: Any) -> None:
            nonlocal done
            self.check(min(1.0, done / calls), text)
            done += 1

        handle = network.register_forward_pre_hook(before)
        try:
            yield
        finally:
            handle.remove()


def sentence(text: str, kind: str = "good") -> str:
    """A sentence for a page: "good", "bad" or "plain"."""
    return f'<p class="says {kind}" role="status">{html.escape(text)}</p>' if text else ""


class Studio:
    """The models, the sessions and the one place at the easel.

    Args:
        root: folder of this server, removed with it.
    """

    def __init__(self, config: AppConfig, root: Path) -> None:
        self.config, self.uploads = config, root / "uploads"
        self.sessions = Sessions(root / "sessions", 60 * config.keep_minutes)
        self.model = self._load(config.model)
        if learned_words(self.model) or getattr(self.model, "subject_embeddings", None) is not None:
            raise InputError(f"{config.model} is fine-tuned to a subject; give it with --subjects, and --model without")
        self.subjects = self._server_subjects()
        self._fine_tuned: tuple[Path, LatentDiffusion] | None = None
        self._easel = threading.Lock()
        self._encoded: tuple[Subject, Tensor] | None = None  # the last subject that was looked at
        self._held_out: dict[str, Subject] = {}

    @cached_property
    def suite(self) -> Suite:
        return load_suite(HELD_OUT)

    @property
    def class_nouns(self) -> list[str]:
        """The class words that the model knows; [] where it has no list."""
        return list(self.model.record.get("class_nouns") or [])

    def session(self, request: Any) -> Session:
        """The session of the page that a request comes from."""
        return self.sessions.of(getattr(request, "session_hash", None))

    def run(self, work: Callable[[Turn], Result], request: Any, progress: Any = None) -> tuple[Result | None, str]:
        """Calls ``work`` when the models are free; its result, None if there is none, and the sentence to show.

        Whatever goes wrong becomes the sentence.
        """
        turn = None
        try:
            session = self.session(request)
            turn = Turn(session, progress)
            session.stop.clear()
            session.keep.clear()
            session.running += 1
            try:
                while not self._easel.acquire(timeout=0.2):
                    turn.check(0.0, "waiting for another page")
                try:
                    turn.started = time.monotonic()
                    return work(turn), turn.status
                finally:
                    self._easel.release()
            finally:
                session.running -= 1
        except Exception as error:
            return None, told(error)

    def names(self, session: Session) -> list[str]:
        """The subjects that a page can choose from."""
        own = [UPLOADED] if session.images else []
        return [*session.taught, *own, *self.subjects, *(subject.name for subject in self.suite.subjects)]

    def subject(self, session: Session, name: str, class_noun: str | None) -> Subject:
        """A subject by its name; the class word counts for uploaded images alone."""
        if name in session.taught:
            return Subject(name=name, class_noun="", folder=session.taught[name])
        if name in self.subjects:
            return self.subjects[name]
        if name == UPLOADED:
            if not session.images:
                raise InputError("there are no images of yours yet; drop one to six of them into the box")
            noun = checked_text(class_noun, "the class word").strip()
            if not noun:
                raise InputError("the class word is missing; say what your images show, such as dog")
            check_class_noun(noun, self.model.record.get("class_nouns"))
            return Subject(name=name, class_noun=noun, images=tuple(session.images))
        for one in self.suite.subjects:
            if one.name == name and name not in self._held_out:
                images = tuple(load_references(self.suite, one))
                self._held_out[name] = Subject(name=name, class_noun=one.class_noun, images=images, suite=HELD_OUT)
        if name in self._held_out:
            return self._held_out[name]
        raise InputError("this subject is not here; choose one of the list")

    def drawable(self, subject: Subject) -> tuple[LatentDiffusion, str, Tensor | None]:
        """The model that draws a subject, the words in the prompt's {}, and the subject's vectors (1, Q, D) if any."""
        if subject.folder is not None:
            model = self._fine(subject.folder)
            words = learned_words(model)
            if words is None and isinstance(model, BlipDiffusion):
                return model, model.subject_class or "", model.subject_embeddings
            return model, words or "", None
        if self._encoded is None or not _same(self._encoded[0], subject):
            blip = require_blip_diffusion(self.model)
            self._encoded = subject, blip.mean_subjects(list(subject.images), subject.class_noun)
        return self.model, subject.class_noun, self._encoded[1]

    def _fine(self, folder: Path) -> LatentDiffusion:
        if self._fine_tuned is None or self._fine_tuned[0] != folder:
            self._fine_tuned = None  # first, so that two are never in memory
            self._fine_tuned = folder, self._load(folder)
        return self._fine_tuned[1]

    def _load(self, path: str | Path) -> LatentDiffusion:
        return load_drawable(path, self.config.options).to(pick_device())

    def _server_subjects(self) -> dict[str, Subject]:
        """The fine-tuned folders that the server was started with, looked at now so that a wrong one is told now."""
        subjects: dict[str, Subject] = {}
        for folder in self.config.subjects:
            model = load_drawable(folder, self.config.options)
            known = learned_words(model) or (model.subject_class if isinstance(model, BlipDiffusion) else None)
            if known is None:
                raise InputError(f"--subjects {folder} holds no subject; give folders that bdkit finetune wrote")
            subjects[f"{folder.name} (fine-tuned)"] = Subject(name=folder.name, class_noun=known, folder=folder)
        return subjects


def told(error: Exception) -> str:
    """What the page says of an error; of a bug the terminal says more."""
    if isinstance(error, Stopped):
        return sentence("Stopped.", "plain")
    if isinstance(error, InputError):
        return sentence(_capital(str(error)), "bad")
    traceback.print_exception(error, file=sys.stderr)
    return sentence(f"This went wrong on the server ({type(error).__name__}); its terminal says more.", "bad")


def seed_list(text: str, limit: int) -> list[int]:
    """The seeds that a page asks for, such as "0-3,7": at most `limit`."""
    seeds = parse_numbers(checked_text(text, "the list of seeds"))
    if len(seeds) > limit:
        raise InputError(f"{len(seeds)} seeds; give at most {limit} at once")
    return seeds


def checked_text(text: str | None, what: str) -> str:
    """A text from the page, refused where it is too long."""
    text = text or ""
    if len(text) > MAX_TEXT:
        raise InputError(f"{what} has {len(text)} letters; use at most {MAX_TEXT}")
    return text


def _same(one: Subject, other: Subject) -> bool:
    """Whether two subjects are the same images with the same class word."""
    same = len(one.images) == len(other.images) and one.class_noun == other.class_noun
    return same and all(a is b for a, b in zip(one.images, other.images, strict=True))


def _capital(text: str) -> str:
    line = " ".join(text.split())
    line = line[:1].upper() + line[1:] if line.split(" ")[0].isalpha() else line
    return line if line.endswith((".", "!", "?")) else f"{line}."
