"""The whole pre-training at mini size, stage after stage; finished stages are skipped."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bdkit.checkpoints.save import save_blip_diffusion
from bdkit.losses import NOISE_SCHEDULE
from bdkit.miniworld.captions import VOCABULARY
from bdkit.miniworld.contexts import render_background
from bdkit.miniworld.scenes import CONTEXTS, STUDIO
from bdkit.miniworld.subjects import CLASSES
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import ModelConfig
from bdkit.models.tokenizers import bert_tokenizer, clip_tokenizer
from bdkit.training.config import TrainingConfig
from bdkit.training.data import divided
from bdkit.training.pretraining.autoencoder import encode_corpus, train_autoencoder
from bdkit.training.pretraining.card import write_card
from bdkit.training.pretraining.config import SubjectRepresentationConfig
from bdkit.training.pretraining.corpus import Corpus, CorpusConfig, build_corpus
from bdkit.training.pretraining.image_encoder import train_image_encoder
from bdkit.training.pretraining.matting import build_mattes
from bdkit.training.pretraining.multimodal_representation import pair_batches, train_multimodal_representation
from bdkit.training.pretraining.presets import PRETRAIN, PretrainConfig
from bdkit.training.pretraining.subject_representation import subject_batches, train_subject_representation
from bdkit.training.pretraining.text_to_image import train_text_to_image
from bdkit.utils.env import is_main_process
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json, write_atomically, write_json


def new_model(config: ModelConfig, seed: int = 0) -> BlipDiffusion:
    """A model with random weights, tokenizers over the mini world's words."""
    torch.manual_seed(seed)
    return BlipDiffusion.from_config(
        config,
        clip_tokenizer(VOCABULARY, config.text_encoder["max_position_embeddings"]),
        bert_tokenizer(VOCABULARY, config.multimodal.qformer["max_position_embeddings"]),
        DPMSolverMultistepScheduler(**NOISE_SCHEDULE, final_sigmas_type="zero", timestep_spacing="linspace"),
        record={"class_nouns": list(CLASSES), "method_preset": "mini"},
    )


class MiniPretraining:
    """All stages over one folder: ``corpus/``, one folder a stage, and ``weights/`` with the finished models."""

    def __init__(self, out: Path, config: PretrainConfig, *, progress: bool = True, device: str | None = None) -> None:
        self.out, self.config, self.progress = out, config, progress
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.loop: dict[str, Any] = {"progress": progress, "device": self.device}
        self.model = new_model(config.model).to(self.device)
        self._corpora: dict[str, Corpus] = {}

    def _check_settings(self) -> None:
        """Refuses a folder that holds a run with other settings."""
        path = self.out / "settings.json"
        if path.exists() and read_json(path) != self._settings():
            raise InputError(f"{self.out} holds a pre-training with other settings; choose another folder or remove it")

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self.config)))
        return settings

    def corpus(self, name: str = "corpus") -> Corpus:
        """The corpus of the stages before stage 2, or stage 2's "subject-corpus" or "joint-corpus"; rendered once."""
        if name not in self._corpora:
            config: CorpusConfig = getattr(self.config, name.replace("-", "_"))
            self._corpora[name] = build_corpus(config, self.out / name, progress=self.progress)
        return self._corpora[name]

    def latents(self, name: str = "corpus") -> Tensor:
        """Scaled latents of a whole corpus (N, C, h, w), cached on disk."""
        path = self.out / "autoencoder" / f"{name}-latents.safetensors"
        if not path.exists():
            latents = encode_corpus(self.model.vae, self.corpus(name).images)
            write_atomically(path, lambda p: save_file({"latents": latents}, p))
        return load_file(path)["latents"]

    def _parts(self, stage: str) -> list[tuple[str, nn.Module]]:
        """What a stage trains, and hence saves."""
        model = self.model
        modules: dict[str, nn.Module] = {
            "vae": model.vae,
            "vision": model.multimodal_encoder.vision_model,
            "unet": model.unet,
            "text": model.text_encoder,
            "multimodal": model.multimodal_encoder,
        }
        return [(name, modules[name]) for name in STAGES[stage].parts]

    def _weights(self, stage: str) -> Path:
        return self.out / stage / "weights.safetensors"

    def load(self, stage: str) -> bool:
        """Puts the weights of a finished stage into the model; False when it is not finished."""
        path = self._weights(stage)
        if not path.exists():
            return False
        state = load_file(path)
        for name, module in self._parts(stage):
            module.load_state_dict(
                {k.removeprefix(name + "."): v for k, v in state.items() if k.startswith(name + ".")}
            )
        if stage == "autoencoder":
            self.model.vae.register_to_config(**read_json(self.out / stage / "scaling.json"))
        return True

    def _save(self, stage: str) -> None:
        state = {
            f"{name}.{k}": v.detach().cpu().contiguous()
            for name, module in self._parts(stage)
            for k, v in module.state_dict().items()
        }
        if stage == "autoencoder":
            config = self.model.vae.config
            scaling = {"scaling_factor": config.scaling_factor, "shift_factor": config.shift_factor}
            write_json(scaling, self.out / stage / "scaling.json")
        write_atomically(self._weights(stage), lambda p: save_file(state, p))

    def run(self, stages: Sequence[str]) -> Path:
        """Runs those of ``stages`` that are not finished, and export when the last one is."""
        self._check_settings()
        for stage in STAGES:
            if stage not in stages or self._weights(stage).exists():
                continue
            for required in STAGES[stage].requires:
                if not self.load(required):
                    raise InputError(
                        f"{stage} needs {required}, which is not finished in {self.out}; "
                        f"run `bdkit pretrain {required}` with the same --out first"
                    )
            write_json(self._settings(), self.out / "settings.json")
            STAGES[stage].train(self)
            self._save(stage)
        finished = self._weights(list(STAGES)[-1]).exists()
        return self.export() if finished and is_main_process() else self.out

    def _autoencoder(self) -> None:
        train_autoencoder(
            self.model.vae,
            self.corpus(),
            divided(self.config.autoencoder),
            self.out / "autoencoder",
            **self.loop,
        )

    def _image_encoder(self) -> None:
        config = self.config
        tower, _ = train_image_encoder(
            self.corpus(),
            self.model.tokenizer,
            config.model.multimodal.vision,
            config.model.clip_text,
            divided(config.image_encoder),
            self.out / "image-encoder",
            **self.loop,
        )
        self.model.multimodal_encoder.vision_model.load_state_dict(tower.state_dict())

    def _base(self) -> None:
        train_text_to_image(
            self.model,
            self.corpus(),
            self.latents(),
            divided(self.config.text_to_image),
            self.out / "base",
            **self.loop,
        )

    def _stage1(self) -> None:
        encoder, tokenizer = self.model.multimodal_encoder, self.model.qformer_tokenizer
        training = divided(self.config.multimodal_representation)
        batches = pair_batches(self.corpus(), encoder, tokenizer, training)
        train_multimodal_representation(encoder, tokenizer, batches, training, self.out / "stage1", **self.loop)

    def _stage2(self) -> None:
        config = self.config
        self._prompted("stage2", "subject-corpus", "mattes", config.subject_representation, config.subject)

    def _stage2_joint(self) -> None:
        config = self.config
        self._prompted("stage2-joint", "joint-corpus", "joint-mattes", config.joint_training, config.joint_subject)

    def _prompted(
        self, stage: str, name: str, mattes_in: str, training: TrainingConfig, subject: SubjectRepresentationConfig
    ) -> None:
        config, corpus = self.config, self.corpus(name)
        count = min(config.mattes, len(corpus))
        mattes = build_mattes(
            corpus.images[:count], corpus.alphas[:count], self.out / mattes_in, progress=self.progress
        )
        training = divided(training)
        self.model.conventions = replace(self.model.conventions, subject_text=subject.subject_text)
        backgrounds = random_backgrounds(config.backgrounds, config.corpus.seed)
        batches = subject_batches(self.model, corpus, self.latents(name), backgrounds, training, subject, mattes)
        shown = stage.replace("stage2", "stage 2")
        train_subject_representation(self.model, batches, training, subject, self.out / stage, name=shown, **self.loop)

    def export(self, dtype: torch.dtype = torch.float16) -> Path:
        """Writes ``weights/mini`` and ``weights/mini-base`` (U-Net and text encoder before stage 2), with a card."""
        weights = self.out / "weights"
        runs = {stage: self.out / stage / "run.json" for stage in STAGES}
        self.model.record |= {
            "stages": {stage: read_json(path) for stage, path in runs.items() if path.exists()},
            "corpus": asdict(self.config.corpus),
            "subject_corpus": asdict(self.config.subject_corpus),
            "joint_corpus": asdict(self.config.joint_corpus),
        }
        self.load("base")
        base_only = ("unet", "text_encoder")
        save_blip_diffusion(self.model, weights / "mini-base", dtype, only=base_only, parts_from="../mini")
        for stage in STAGES:
            self.load(stage)
        save_blip_diffusion(self.model, weights / "mini", dtype)
        write_card(weights / "mini", self.out, list(STAGES), self.config)
        return weights


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Which stages one starts from, what of the model it trains, and how."""

    requires: tuple[str, ...] = ()
    parts: tuple[str, ...]
    train: Callable[[MiniPretraining], None]


STAGES: dict[str, Stage] = {
    "autoencoder": Stage(parts=("vae",), train=MiniPretraining._autoencoder),
    "image-encoder": Stage(parts=("vision",), train=MiniPretraining._image_encoder),
    "base": Stage(requires=("autoencoder",), parts=("unet", "text"), train=MiniPretraining._base),
    "stage1": Stage(requires=("image-encoder",), parts=("multimodal",), train=MiniPretraining._stage1),
    "stage2": Stage(
        requires=("autoencoder", "image-encoder", "base", "stage1"),
        parts=("unet", "text", "multimodal"),
        train=MiniPretraining._stage2,
    ),
    "stage2-joint": Stage(
        requires=("autoencoder", "stage2"),
        parts=("unet", "text", "multimodal"),
        train=MiniPretraining._stage2_joint,
    ),
}


def random_backgrounds(count: int, seed: int) -> np.ndarray:
    """Images without a subject, uint8 (count, 64, 64, 3), for the inputs of stage 2."""
    contexts = [*CONTEXTS, STUDIO]
    rng = np.random.default_rng([seed, 77])
    return np.stack([render_background(contexts[rng.integers(len(contexts))], rng) for _ in range(count)])


def pretrain_mini(
    out: Path,
    *,
    smoke: bool = False,
    stages: Sequence[str] | None = None,
    progress: bool = True,
    device: str | None = None,
) -> Path:
    """Pre-trains the mini model in ``out``; returns the folder with the exported weights (or ``out`` before that).

    Args:
        smoke: all of it with a handful of steps, for tests.
        stages: some of `STAGES`; None runs all that are not finished.

    Raises:
        InputError: an unknown stage, or one whose predecessors are not finished.
    """
    unknown = set(stages or ()) - set(STAGES)
    if unknown:
        raise InputError(f"unknown stage {sorted(unknown)[0]!r}; the stages are {', '.join(STAGES)}")
    config = PRETRAIN["mini-smoke" if smoke else "mini"]
    return MiniPretraining(Path(out), config, progress=progress, device=device).run(list(stages or STAGES))
