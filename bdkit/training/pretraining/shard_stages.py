"""The stages on shards, at any size: what they start from, the same training as in memory, and the result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import ControlNetModel

from bdkit.checkpoints.encoder_parts import EncoderPart, load_encoder, new_encoder, save_encoder
from bdkit.checkpoints.files import new_folder
from bdkit.checkpoints.load import load_base, model_hash
from bdkit.checkpoints.re_imagen import new_retrieval_unet, save_re_imagen
from bdkit.checkpoints.save import save_blip_diffusion
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.prompts import Conventions, find_template
from bdkit.training.bm25 import bm25_neighbours
from bdkit.training.config import ShardConfig, TrainingConfig
from bdkit.training.controlnet import EMPTY_SHARE, train_controlnet
from bdkit.training.data import divided
from bdkit.training.pretraining.context_generation import PromptTokenizer
from bdkit.training.pretraining.multimodal_representation import (
    MultimodalRepresentation,
    train_multimodal_representation,
)
from bdkit.training.pretraining.presets import PRETRAIN, ReImagenPreset, Stage1Preset, Stage2Preset
from bdkit.training.pretraining.retrieval_augmented import train_retrieval_augmented
from bdkit.training.pretraining.stages import random_backgrounds
from bdkit.training.pretraining.subject_representation import train_subject_representation
from bdkit.training.shards.batches import (
    EncodeTargets,
    FinishNeighbours,
    FinishPairs,
    FinishStructures,
    FinishSubjects,
    ShardBatches,
    shard_batches,
    shard_latents,
)
from bdkit.training.shards.read import Shards
from bdkit.training.shards.retrieval import RetrievalSamples, captions_of
from bdkit.training.shards.samples import Backgrounds, PairSamples, StructureSamples, SubjectSamples
from bdkit.training.tracking import Samples, Tracking, check_tracker
from bdkit.utils.env import is_main_process
from bdkit.utils.errors import InputError
from bdkit.utils.io import as_json, read_json, write_json
from bdkit.utils.parallel import locked

MODEL, SETTINGS = "model", "settings.json"


def pretrain_stage1(
    preset: Stage1Preset,
    run: ShardConfig,
    *,
    samples: Callable[[MultimodalRepresentation, PairSamples, Shards], Samples] | None = None,
    progress: bool = True,
) -> Path:
    """Trains a multimodal encoder on pairs of image and caption; returns the folder with it.

    Args:
        samples: of the module in training, what `Tracking` shows where there is a tracker.
    """
    out = run.out / MODEL
    if run.log_with is not None:
        check_tracker(run.log_with)
    shards = Shards(run.data)
    training = divided(preset.training, run.micro_batch)
    settings = {"stage": "stage1", **asdict(preset), **_given(run), "data": shards.fingerprint}
    with _claimed(run.out, settings):
        if out.exists():
            return out
        device = run_device(run.device)
        part = start_encoder(preset, run)
        encoder = part.encoder.to(device)
        _say(part.told)
        pairs = PairSamples(tokenizer=part.tokenizer, config=preset.config, size=encoder.image_size, pixels=part.pixels)
        batches = shard_batches(shards, pairs, training, FinishPairs(device), run.workers)

        def watch(module: MultimodalRepresentation) -> Tracking:
            return _tracking(run, None if samples is None else samples(module, pairs, shards))

        train_multimodal_representation(
            encoder,
            part.tokenizer,
            batches,
            training,
            run.out,
            projection_size=preset.config.projection_size,
            progress=progress,
            device=device,
            watch=None if run.log_with is None else watch,
        )
        if is_main_process():
            save_encoder(part, out, {"stage1": read_json(run.out / "run.json"), "start": part.told})
    return out


def start_encoder(preset: Stage1Preset, run: ShardConfig) -> EncoderPart:
    """The encoder that stage 1 starts from: another one, or CLIP's image encoder with a new Q-Former."""
    if run.init is not None:
        return load_encoder(run.init)
    image_encoder, qformer = run.image_encoder or preset.image_encoder, run.qformer or preset.qformer
    if image_encoder is None:
        raise InputError("stage 1 needs an image encoder; give --image-encoder the folder or id of a CLIP ViT-L/14")
    if qformer is None:
        raise InputError("stage 1 needs a Q-Former; give --qformer a BERT-base or BLIP-2 (folder or id), or random")
    return new_encoder(
        image_encoder,
        None if qformer == "random" else qformer,
        preset.encoder,
        qformer_tokenizer=run.qformer_tokenizer,
        seed=preset.training.seed,
    )


def pretrain_stage2(
    preset: Stage2Preset,
    run: ShardConfig,
    *,
    samples: Callable[[BlipDiffusion], Samples] | None = None,
    progress: bool = True,
) -> Path:
    """Trains a BLIP-Diffusion by prompted context generation; returns its folder.

    Args:
        samples: of the model in training, what `Tracking` draws with.
    """
    out = run.out / MODEL
    if run.log_with is not None:
        check_tracker(run.log_with)
    shards = Shards(run.data)
    training = divided(preset.training, run.micro_batch)
    backgrounds = read_backgrounds(run.backgrounds or preset.backgrounds)
    model = start_model(preset, run)
    settings = {"stage": "stage2", **asdict(preset), **_given(run), "data": shards.fingerprint}
    settings |= {"template": model.conventions.template, "cache_latents": run.cache_latents}
    with _claimed(run.out, settings):
        if out.exists():
            return out
        model.to(run_device(run.device))
        batches = subject_shard_batches(model, shards, backgrounds, training, preset, run, progress=progress)
        watched = run.log_with is not None or samples is not None
        tracking = _tracking(run, None if samples is None else samples(model)) if watched else None
        train_subject_representation(
            model, batches, training, preset.config, run.out, progress=progress, device=model.device, tracking=tracking
        )
        if is_main_process():
            model.record["stage2"] = read_json(run.out / "run.json")
            save_blip_diffusion(model, out)
    return out


def start_model(preset: Stage2Preset, run: ShardConfig) -> BlipDiffusion:
    """The model that stage 2 starts from: a text-to-image model with the multimodal encoder of stage 1."""
    base_name, init = run.base or preset.base, run.init or preset.init
    if base_name is None:
        raise InputError("stage 2 needs a text-to-image model; give --base the folder or id of a Stable Diffusion v1")
    if init is None:
        raise InputError("stage 2 starts from stage 1; give --init its result, such as RUN/model")
    template = find_template(run.template or preset.template)
    base: LatentDiffusion = load_base(base_name)
    part = load_encoder(init)
    width = base.text_encoder.model.config.hidden_size
    if part.encoder.qformer.config.hidden_size != width:
        raise InputError(
            f"--init {init} gives vectors of width {part.encoder.qformer.config.hidden_size}, but the text encoder of "
            f"--base {base_name} takes {width}; use a Q-Former of that width"
        )
    record = {key: base.record[key] for key in ("class_nouns", "method_preset") if key in base.record}
    reps = template.prompt_reps or base.defaults.prompt_reps
    return BlipDiffusion(
        vae=base.vae,
        unet=base.unet,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        scheduler=base.scheduler,
        multimodal_encoder=part.encoder,
        qformer_tokenizer=part.tokenizer,
        defaults=replace(base.defaults, prompt_reps=reps),
        conventions=Conventions(
            template=run.template or preset.template, pixels=part.pixels, subject_text=preset.config.subject_text
        ),
        record={**record, "base": str(base_name), "base_checkpoint": model_hash(base), "init": str(init)},
    )


def read_backgrounds(name: str | None) -> Backgrounds:
    """The images to blend cut-outs on: the mini world's ("mini"), or those of shards."""
    if name is None:
        raise InputError(
            "stage 2 blends subjects on other images; give --backgrounds shards of images without the subjects "
            "(bdkit prepare FOLDER --masks none --out SHARDS), or mini for the mini world's"
        )
    if name == "mini":
        config = PRETRAIN["mini"]
        return Backgrounds(random_backgrounds(config.backgrounds, config.corpus.seed))
    return Backgrounds(Shards(name))


def pretrain_controlnet_on_shards(
    training: TrainingConfig,
    run: ShardConfig,
    *,
    samples: Callable[[ControlNetModel, LatentDiffusion, Shards], Samples] | None = None,
    progress: bool = True,
) -> Path:
    """Trains a ControlNet on the Canny edges of images beside a frozen text-to-image model; returns its folder.

    Args:
        samples: of the ControlNet in training, what `Tracking` draws with where there is a tracker.
    """
    out = run.out / MODEL
    if run.base is None:
        raise InputError("a ControlNet is trained beside a model; give --base, such as a Stable Diffusion v1's folder")
    shards, model = Shards(run.data), load_base(run.base)
    settings = {"stage": "controlnet", **asdict(training), **_given(run), "data": shards.fingerprint}
    each = divided(training, run.micro_batch)
    with _claimed(run.out, settings):
        if out.exists():
            return out
        device = run_device(run.device)
        model.to(device)
        structures = StructureSamples(
            tokenizer=model.tokenizer,
            length=model.text_encoder.max_length,
            resolution=model.resolution,
            empty_share=EMPTY_SHARE,
        )
        finish = FinishStructures(EncodeTargets(model.vae, each.mixed_precision))
        batches = shard_batches(shards, structures, each, finish, run.workers)

        def watch(net: ControlNetModel) -> Tracking:
            return _tracking(run, None if samples is None else samples(net, model, shards))

        watched = None if run.log_with is None else watch
        net, record = train_controlnet(model, batches, each, run.out, watch=watched, progress=progress, device=device)
        if is_main_process():
            with new_folder(out) as folder:
                net.save_pretrained(folder)
                write_json({"beside": str(run.base), **record}, folder / "run.json")
    return out


def pretrain_re_imagen_on_shards(preset: ReImagenPreset, run: ShardConfig, *, progress: bool = True) -> Path:
    """Trains Re-Imagen on pairs of image and caption, whose neighbours BM25 finds; returns the additions' folder."""
    out = run.out / MODEL
    if run.base is None:
        raise InputError("Re-Imagen adds to a model; give --base, such as a Stable Diffusion v1's folder")
    if run.log_with is not None:
        check_tracker(run.log_with)
    shards, model = Shards(run.data), load_base(run.base)
    settings = {"stage": "re-imagen", **asdict(preset), **_given(run), "data": shards.fingerprint}
    each = divided(preset.training, run.micro_batch)
    with _claimed(run.out, settings):
        if out.exists():
            return out
        unet = new_retrieval_unet(model.to(run_device(run.device)), preset.retrieval, each.seed)
        samples = RetrievalSamples(
            tokenizer=model.tokenizer,
            length=model.text_encoder.max_length,
            resolution=model.resolution,
            config=preset.config,
            shards=shards,
            neighbours=bm25_neighbours(captions_of(shards), preset.config.neighbours, pairs=preset.config.word_pairs),
        )
        finish = FinishNeighbours(EncodeTargets(model.vae, each.mixed_precision))
        batches = shard_batches(shards, samples, each, finish, run.workers)
        loop: dict[str, Any] = {"progress": progress, "device": model.device}
        loop["tracking"] = None if run.log_with is None else _tracking(run, None)
        record = train_retrieval_augmented(model, unet, batches, each, preset.config, run.out, **loop)
        if is_main_process():
            save_re_imagen(unet, out, preset.retrieval, {"data": shards.fingerprint, "training": record}, model)
    return out


def subject_shard_batches(
    model: BlipDiffusion,
    shards: Shards,
    backgrounds: Backgrounds,
    training: TrainingConfig,
    preset: Stage2Preset,
    run: ShardConfig,
    *,
    progress: bool = True,
) -> ShardBatches:
    """Stage 2's batches of shards for a model that is on its device."""
    latents = None
    if run.cache_latents:
        folder = run.out / "latents"
        vae_hash = str(model.record.get("base_checkpoint", ""))
        latents = shard_latents(shards, model.vae, vae_hash, model.resolution, folder, progress=progress)
    samples = SubjectSamples(
        tokenizer=PromptTokenizer.of(model, preset.config.word_length),
        config=preset.config,
        backgrounds=backgrounds,
        size=model.multimodal_encoder.image_size,
        resolution=model.resolution,
        pixels=model.conventions.pixels,
        latents=latents,
    )
    finish = FinishSubjects(EncodeTargets(model.vae, training.mixed_precision), preset.config.subject_weight)
    return shard_batches(shards, samples, training, finish, run.workers)


def _tracking(run: ShardConfig, samples: Samples | None) -> Tracking:
    return Tracking(run.log_with, run.out / "log", every=run.log_every, samples=samples, sample_every=run.sample_every)


def run_device(name: str | None) -> torch.device:
    """This process's device: the GPU of its own, where there is one."""
    device: torch.device = PartialState(cpu=name == "cpu" or not torch.cuda.is_available()).device
    return device


def _given(run: ShardConfig) -> dict[str, Any]:
    """What a run starts from, as the user names it."""
    names = ("base", "init", "image_encoder", "qformer", "backgrounds")
    return {f"given_{name}": getattr(run, name) for name in names}


@contextmanager
def _claimed(out: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Holds a folder for one run with these settings; refuses another run's."""
    settings = as_json(settings)
    path = out / SETTINGS
    if path.exists() and (old := read_json(path)) != settings:
        name = next(name for name in {**settings, **old} if old.get(name) != settings.get(name))
        raise InputError(f"{out} belongs to another run (its {name} differs); choose another --out")
    if not is_main_process():
        yield
        return
    # hidden: what a run that was killed in this very function leaves behind
    if not path.exists() and out.exists() and any(not file.name.startswith(".") for file in out.iterdir()):
        raise InputError(f"{out} already holds something else; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"another run is training in {out}; wait for it or choose another --out"):
        write_json(settings, path)
        yield


def _say(line: str) -> None:
    if line and is_main_process():
        print(line)
