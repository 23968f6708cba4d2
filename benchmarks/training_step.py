"""One optimiser step of each stage at the true full shapes, random weights: seconds, peak memory, parameters.

python benchmarks/training_step.py stage1          batch 2, float32
python benchmarks/training_step.py stage2          batch 1, bfloat16 weights, gradients and AdamW states
python benchmarks/training_step.py wait --data S   share of a mini stage-2 step that waits for data, from shards S
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import PNDMScheduler
from torch import nn

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import FULL, PUBLIC_SCHEDULER, TINY, ModelConfig
from bdkit.models.tokenizers import bert_tokenizer, clip_tokenizer
from bdkit.testing.measuring import measured
from bdkit.testing.seeded_weights import TINY_WORDS
from bdkit.training.config import ShardConfig, TrainingConfig
from bdkit.training.data import FunctionBatches
from bdkit.training.pretraining.config import SubjectRepresentationConfig
from bdkit.training.pretraining.context_generation import WITH_SUBJECT, PromptTokenizer
from bdkit.training.pretraining.multimodal_representation import caption_ids, train_multimodal_representation
from bdkit.training.pretraining.presets import STAGE2
from bdkit.training.pretraining.shard_stages import read_backgrounds, start_model, subject_shard_batches
from bdkit.training.pretraining.subject_representation import (
    SubjectBatch,
    SubjectRepresentationLoss,
    train_subject_representation,
)
from bdkit.training.shards.batches import EncodeTargets
from bdkit.training.shards.read import Shards

# Parameters of the public parts: Stable Diffusion v1-5's, and CLIP ViT-L/14's vision tower less one of its 24 layers
PUBLISHED = {
    "unet": 859_520_964,
    "text_encoder": 123_060_480,
    "vae": 83_653_863,
    "multimodal_encoder.vision_model": 303_179_776 - 12_596_224,
}


def main(argv: list[str] | None = None) -> int:
    """Measures one of the three and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stage1", "stage2", "wait"))
    parser.add_argument("--data", help="shards of the mini world's stage2 (bdkit prepare mini --corpus stage2)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="the same code at tiny shapes, to see that it works")
    args = parser.parse_args(argv)
    if args.what == "wait":
        print_wait(args.data, args.steps, args.workers)
        return 0
    sizes = TINY if args.tiny else FULL
    dtype = torch.float32 if args.what == "stage1" else torch.bfloat16
    model = meta_model(sizes, dtype)
    count_parameters(model, compare=not args.tiny)
    fill(model.multimodal_encoder if args.what == "stage1" else model)
    with measured(f"one optimiser step of {args.what}, {dtype}"):
        history = (step_of_stage1 if args.what == "stage1" else step_of_stage2)(model)
    print(f"loss {history[-1]['loss']:.3f}")
    return 0


def meta_model(sizes: ModelConfig, dtype: torch.dtype) -> BlipDiffusion:
    """A model without memory for its weights."""
    tokenizers = (
        clip_tokenizer(TINY_WORDS, sizes.text_encoder["max_position_embeddings"]),
        bert_tokenizer(TINY_WORDS, 32),
    )
    with torch.device("meta"):
        model = BlipDiffusion.from_config(sizes, *tokenizers, PNDMScheduler(**PUBLIC_SCHEDULER))
    return model.to(dtype)


def fill(module: nn.Module) -> None:
    """Gives a module on the meta device random weights, of a size that keeps it stable."""
    module.to_empty(device="cpu")
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.uniform_(parameter, -0.03, 0.03)
        else:
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))


def count_parameters(model: BlipDiffusion, *, compare: bool) -> None:
    """Prints the parameters of each part beside the public part's."""
    parts = ("vae", "unet", "text_encoder", "multimodal_encoder.vision_model", "multimodal_encoder.qformer")
    for part in (*parts, "multimodal_encoder.projection"):
        count = sum(p.numel() for p in model.get_submodule(part).parameters())
        published = f" (published: {PUBLISHED[part]:,})" if compare and part in PUBLISHED else ""
        print(f"{part}: {count:,} parameters{published}")
        assert not published or count == PUBLISHED[part], part


def step_of_stage1(model: BlipDiffusion) -> list[dict[str, float]]:
    """All three losses, gradients and AdamW on two pairs."""
    encoder, tokenizer = model.multimodal_encoder, model.qformer_tokenizer

    def batch(_index: int, generator: torch.Generator) -> tuple[Any, ...]:
        side = encoder.image_size
        ids, mask = caption_ids(tokenizer, ["a dog in the snow", "a red vase on grass"], 32)
        return torch.randn(2, 3, side, side, generator=generator), ids, mask

    training = TrainingConfig(steps=1, batch_size=2, learning_rate=1e-4, gradient_checkpointing=True)
    batches = FunctionBatches(batch, 0)
    options = {"projection_size": 256, "progress": False, "device": "cpu"}
    _, history = train_multimodal_representation(encoder, tokenizer, batches, training, None, **options)
    return history


def step_of_stage2(model: BlipDiffusion) -> list[dict[str, float]]:
    """VAE, all encoders, U-Net, gradients and AdamW on one image."""
    settings = STAGE2["paper-stage2"].config
    tokenizer, dtype = PromptTokenizer.of(model, settings.word_length), model.unet.dtype
    encode = EncodeTargets(model.vae, "bf16")
    side = model.multimodal_encoder.image_size
    word_ids, word_mask = tokenizer.words(["dog"])
    input_ids, subject_mask = tokenizer.prompts(["a {} in the snow"], ["dog"], WITH_SUBJECT)

    def batch(_index: int, generator: torch.Generator) -> SubjectBatch:
        pixels = model.vae.config.sample_size
        target = torch.randint(0, 256, (1, pixels, pixels, 3), generator=generator, dtype=torch.uint8)
        return SubjectBatch(
            latents=encode(target, generator).to(dtype),
            pixels=torch.randn(1, 3, side, side, generator=generator).to(dtype),
            word_ids=word_ids,
            word_mask=word_mask,
            input_ids=input_ids,
            subject_mask=subject_mask,
        )

    training = TrainingConfig(steps=1, batch_size=1, learning_rate=2e-6, gradient_checkpointing=True)
    options = {"progress": False, "device": "cpu"}
    return train_subject_representation(model, FunctionBatches(batch, 0), training, settings, None, **options)


def print_wait(data: str, steps: int, workers: int) -> None:
    """Waiting for batches and training on them, timed apart, with the mini model at its preset's batch.

    Latents are cached, as those of the mini world in memory are.
    """
    preset = STAGE2["mini"]
    out = Path(tempfile.mkdtemp())
    run = ShardConfig(data=data, out=out, init="mini", workers=workers, cache_latents=True, device="cpu")
    model = start_model(preset, run)
    settings: SubjectRepresentationConfig = preset.config
    training = preset.training
    backgrounds = read_backgrounds(preset.backgrounds)
    batches = iter(subject_shard_batches(model, Shards(data), backgrounds, training, preset, run))
    module = SubjectRepresentationLoss(model, settings).requires_grad_(True)
    model.multimodal_encoder.vision_model.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-6, fused=True)
    waited, worked = [], []
    for _ in range(steps + 2):
        start = time.perf_counter()
        batch, generator = next(batches)
        ready = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.mixed_precision == "bf16"):
            loss, _ = module(batch, generator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        waited.append(ready - start)
        worked.append(time.perf_counter() - ready)
    wait, work = float(np.median(waited[2:])), float(np.median(worked[2:]))
    print(
        f"{workers} workers: a step waits {wait:.4f} s for data and computes {work:.3f} s: {wait / (wait + work):.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
