"""What a method is, and what all of them share: their start model, their prompts and how they generate."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from bdkit.checkpoints.load import SHIPPED, model_hash
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.prompts import check_words, one_placeholder
from bdkit.sampling import Callback, check_guidance, make_scheduler, with_timesteps
from bdkit.training.config import AUTO, FewStepConfig
from bdkit.training.finetuning import CAPTION, AfterStep, Snapshot, Work, cast, load_or_make
from bdkit.training.method_config import MethodConfig
from bdkit.training.stopping import STOPPING
from bdkit.utils.errors import InputError
from bdkit.utils.progress import progress_bar
from bdkit.utils.seeds import derive_seed

CLASS_IMAGE_BATCH = 8


@runtime_checkable
class Method(Protocol):
    """A way to generate images of a subject: `fit` learns it, `generate` makes the images.

    A method may fit many subjects, one after another; a result depends on its subject and seed alone.
    """

    snapshots: tuple[int, ...]
    """Steps at which `fit` keeps the weights, the last one included; () for a method that trains nothing, or that
    chooses the number of steps itself and keeps the last one's.
    """

    def fit(self, images: list[Image.Image], class_noun: str, seed: int) -> None:
        """Learns a subject from its images; the same seed gives the same bits on a CPU."""

    def select(self, step: int | None) -> None:
        """Generates with the weights as they were after ``step`` steps; None: after the last."""

    def generate(self, prompt_template: str | list[str], class_noun: str, seeds: list[int]) -> list[Image.Image]:
        """One image a seed; a template is like "a {} {} in the jungle", one for all or one a seed."""

    def state(self) -> dict[str, Tensor]:
        """What `fit` learned, all snapshots, as CPU tensors."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Loads a saved `state()` instead of fitting."""

    def save(self, folder: str | Path) -> Path:
        """Writes what `fit` learned in the format that diffusers reads; returns the folder."""

    @property
    def settings(self) -> dict[str, Any]:
        """JSON: every number of the method, and the hash of the weights it starts from."""


class ModelMethod:
    """The part of a method that generates with a model; every call leaves the model as it was.

    Args:
        model: the model it starts from.
        config: the settings.

    Raises:
        InputError: the model is already fine-tuned on a subject.
    """

    name: ClassVar[str]

    def __init__(self, model: LatentDiffusion, config: MethodConfig) -> None:
        if isinstance(model, BlipDiffusion) and model.subject_embeddings is not None:
            raise InputError(
                f"{model.source or 'the model'} already holds a subject ({model.subject_class}); "
                "give the model that it was fine-tuned from"
            )
        self.model = model
        self.scheduler = None if config.scheduler is None else make_scheduler(config.scheduler, model.scheduler)
        if config.guidance_scale is not None:
            check_guidance(config.guidance_scale)
        if config.num_inference_steps is not None:
            with_timesteps(self.scheduler or model.scheduler, config.num_inference_steps)
        self.snapshots: tuple[int, ...] = ()
        self.progress = False
        self.work: Work | None = None
        """Where `fit` saves its progress, so that the same call resumes it; None: nowhere."""
        self.callback: Callback | None = None
        """Called by `generate` after each denoising step, as the model's own ``callback`` is."""
        self._base_config = config
        self._checkpoint: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        if self._checkpoint is None:
            self._checkpoint = model_hash(self.model) if self.model.source else weights_hash(self.model)
        config, defaults = asdict(self._base_config), asdict(self.model.defaults)
        drawing = {key: defaults[key] for key in defaults if config.get(key) is None}
        return {
            "method": self.name,
            "checkpoint": self._checkpoint,
            **config,
            **drawing,
            "scheduler": type(self.scheduler or self.model.scheduler).__name__,
        }

    def save(self, folder: str | Path) -> Path:
        """Raises InputError: this method learns nothing."""
        raise InputError(f"{self.name} learns nothing that could be saved; use the model it starts from")

    def check_class_noun(self, class_noun: str) -> None:
        """Raises InputError for a class word that the model does not know, if its record has a list of them."""
        check_class_noun(class_noun, self.model.record.get("class_nouns"))

    def draw(
        self,
        prompt_template: str | Sequence[str],
        words: str,
        seeds: Sequence[int],
        subject_embeddings: Tensor | None = None,
    ) -> list[Image.Image]:
        """One image for each seed; ``words`` (and the subject vectors) replace the `{} {}` of a template."""
        config = self._base_config
        subject = {} if subject_embeddings is None else {"subject_embeddings": subject_embeddings}
        templates = [prompt_template] if isinstance(prompt_template, str) else prompt_template
        images: list[Image.Image] = self.model(
            [one_placeholder(template) for template in templates],
            target_subject=words,
            seeds=seeds,
            negative_prompt=config.negative_prompt,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            prompt_reps=config.prompt_reps,
            scheduler=self.scheduler,
            callback=self.callback,
            **subject,
        )
        return images


class TrainedMethod(ModelMethod):
    """A method whose `fit` trains: it keeps the snapshots, and generates with the selected one.

    Subclasses load a snapshot into their modules in ``_apply``, and call ``_keep`` at the end of `fit`.
    """

    def __init__(self, model: LatentDiffusion, config: MethodConfig, training: FewStepConfig) -> None:
        super().__init__(model, config)
        self._auto = training.steps == AUTO
        self.snapshots = training.kept_steps if training.steps and not self._auto else ()
        self.history: list[dict[str, float]] = []
        """Loss by step of the last `fit`."""
        self.class_noun: str | None = None
        """The class word of the last `fit`."""
        self.on_step: Callable[[int, float], bool | None] | None = None
        """Called by `fit` after each step with the number of steps and the loss. It may call `generate`, which draws
        with the weights of then and changes nothing; True ends the fit there, with these weights."""
        self._kept: dict[int, Snapshot] = {}
        self._step: int | None = None
        self._applied: int | None = None
        self._live: Callable[[], Snapshot] | None = None
        self._class_latents: dict[str, Tensor] = {}

    def _prior(self, class_noun: str, count: int) -> Tensor:
        """Latents (count, C, h, w) of the model's images of the class, the same for every subject of the class.

        Paper of DreamBooth: images; here: the latents they would be decoded from, because decoding and encoding lose
        detail.
        """
        if class_noun not in self._class_latents:
            config = self._base_config
            seeds = [derive_seed("class image", class_noun, index) for index in range(count)]
            parts = []
            starts = range(0, count, CLASS_IMAGE_BATCH)
            for start in progress_bar(starts, desc=f"images of any {class_noun}", show=self.progress):
                generate = partial(
                    self.model,
                    CAPTION,
                    target_subject=class_noun,
                    seeds=seeds[start : start + CLASS_IMAGE_BATCH],
                    guidance_scale=config.guidance_scale,
                    num_inference_steps=config.num_inference_steps,
                    negative_prompt=config.negative_prompt,
                    prompt_reps=1,
                    scheduler=self.scheduler,
                    output_type="latent",
                )
                parts.append(load_or_make(self.work, f"class-{start}", generate))
            self._class_latents[class_noun] = torch.cat(parts).float()
        return self._class_latents[class_noun]

    @property
    def _after_step(self) -> AfterStep | None:
        """`on_step` as the training takes it."""
        on_step = self.on_step
        if on_step is None:
            return None

        def after(step: int, loss: float, weights: Callable[[], Snapshot]) -> bool:
            self._live = weights
            try:
                return bool(on_step(step, loss))
            finally:
                self._live = None

        return after

    def select(self, step: int | None) -> None:
        kept = self.snapshots or tuple(self._kept) or (0,)
        if step is not None and step not in kept:
            known = ", ".join(map(str, kept))
            raise InputError(f"{self.name} keeps no weights of step {step}; it keeps those of {known}")
        self._step = step

    def state(self) -> dict[str, Tensor]:
        return {f"{step}/{name}": value for step, kept in self._kept.items() for name, value in kept.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        kept: dict[int, Snapshot] = {}
        for key, value in state.items():
            step, _, name = key.partition("/")
            kept.setdefault(int(step), {})[name] = value
        fitting = len(kept) == 1 and 0 not in kept if self._auto else tuple(sorted(kept)) == (self.snapshots or (0,))
        if not fitting:
            raise InputError(
                f"a fit with snapshots {sorted(kept)} does not belong to {self.name} with {list(self.snapshots)}"
            )
        self._keep(kept, [])

    @property
    def chosen_steps(self) -> int | None:
        """The number of steps that the last `fit` chose (``steps="auto"``); None where it was given."""
        return max(self._kept) if self._auto and self._kept else None

    @property
    def stopping_reason(self) -> str | None:
        """Why the last `fit` took `chosen_steps`, a clause; None where the number was given, and of a loaded fit."""
        return STOPPING.reason(self.history) if self._auto and self.history else None

    @property
    def fitted_settings(self) -> dict[str, Any]:
        """`settings`, and the subject and step of the selected weights."""
        if not self._kept or self.class_noun is None:
            raise InputError("there is no fitted subject to save; call fit first")
        step = max(self._kept) if self._step is None else self._step
        reason = {"stopping_reason": self.stopping_reason} if self._auto else {}
        return {**self.settings, "class_noun": self.class_noun, "step": step, **reason}

    def _keep(self, kept: dict[int, Snapshot], history: list[dict[str, float]]) -> None:
        self._kept, self.history, self._applied = kept, history, None

    def selected(self) -> Snapshot:
        """The selected snapshot, loaded into the modules; within `on_step`, the weights of then."""
        if self._live is not None:
            snapshot = self._live()
            self._apply(snapshot)  # the same values: what is being trained stays as it is
            return snapshot
        if not self._kept:
            raise InputError(f"{self.name} has no subject yet; call fit first")
        step = max(self._kept) if self._step is None else self._step
        if self._applied != step:
            self._apply(self._kept[step])
            self._applied = step
        return self._kept[step]

    @contextmanager
    def exact(self, parts: Sequence[nn.Module]) -> Iterator[None]:
        """The selected weights of ``parts`` in float32, as they were trained, whatever the model's precision."""
        snapshot, dtype = self.selected(), self.model.unet.dtype
        try:
            for part in parts:
                cast(part, torch.float32)
            self._apply(snapshot)
            yield
        finally:
            for part in parts:
                cast(part, dtype)

    def _apply(self, snapshot: Snapshot) -> None:
        raise NotImplementedError


def check_class_noun(class_noun: str, known: list[str] | None) -> None:
    """Raises InputError for an empty one, and one outside ``known``, the list in a model's record, if it has one."""
    check_words(class_noun)
    if known and class_noun not in known:
        raise InputError(f"this model does not know the class word {class_noun!r}; it knows {', '.join(known)}")


def weights_hash(model: nn.Module) -> str:
    """Twelve hex digits that identify the weights of a model that is in no folder."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def load_weights(module: nn.Module, snapshot: Snapshot, prefix: str) -> None:
    """Copies the snapshot's values under ``prefix`` into the parameters of ``module``."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(snapshot[prefix + name])


@contextmanager
def exchanged(owner: object, **parts: Any) -> Iterator[None]:
    """Replaces attributes of ``owner`` by ``parts`` within the block."""
    before = {name: getattr(owner, name) for name in parts}
    try:
        for name, part in parts.items():
            setattr(owner, name, part)
        yield
    finally:
        for name, part in before.items():
            setattr(owner, name, part)


def start_beside(start: str, given: str) -> str | None:
    """The model ``start`` beside the ``given`` one: a folder of that name, or both are shipped; None: there is none."""
    if Path(given).is_dir():
        sibling = Path(given).parent / start
        return str(sibling) if given and sibling.is_dir() else None
    return start if given and (SHIPPED / given).is_dir() and (SHIPPED / start).is_dir() else None
