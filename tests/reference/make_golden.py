"""Records what diffusers 0.32.2's BlipDiffusionPipeline gives for tiny random weights; see README.md beside this file.

Runs in the reference's own virtual environment; the modules of bdkit that it uses import neither library.

    python make_golden.py TINY_CHECKPOINT GOLDEN_FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    BlipDiffusionControlNetPipeline,
    BlipDiffusionPipeline,
    ControlNetModel,
    PNDMScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.blip_diffusion.blip_image_processing import BlipImageProcessor
from diffusers.pipelines.blip_diffusion.modeling_blip2 import Blip2QFormerModel
from diffusers.pipelines.blip_diffusion.modeling_ctx_clip import ContextCLIPTextModel
from torchvision import transforms
from transformers import CLIPTextConfig, CLIPTokenizer
from transformers.models.blip_2.configuration_blip_2 import Blip2Config

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from cases import CASES, CONTROL_CASES, LAVIS_CASES, NEGATIVE, SEED, SUBJECT, cached_subject, condition, image  # noqa: E402

from bdkit.models.configs import PUBLIC_SCHEDULER, TINY, TINY_CONTROLNET  # noqa: E402
from bdkit.testing.seeded_weights import seeded_state  # noqa: E402

PARTS = ("qformer", "text_encoder", "unet", "vae", "controlnet")


def build(tiny: Path) -> dict[str, Any]:
    """The reference's own classes, filled by their parameters' names."""
    tokenizer = CLIPTokenizer.from_pretrained(tiny / "tokenizer")
    words = len((tiny / "qformer_tokenizer" / "vocab.txt").read_text().splitlines())
    config = Blip2Config(
        vision_config=TINY.multimodal.vision,
        qformer_config={**TINY.multimodal.qformer, "vocab_size": words + 1},  # and [DEC]
        num_query_tokens=TINY.multimodal.num_query_tokens,
        tokenizer=str(tiny / "qformer_tokenizer"),
    )
    modules = {
        "qformer": Blip2QFormerModel(config),
        "text_encoder": ContextCLIPTextModel(CLIPTextConfig(**TINY.text_encoder, vocab_size=len(tokenizer))),
        "unet": UNet2DConditionModel(**TINY.unet),
        "vae": AutoencoderKL(**TINY.vae),
        "controlnet": ControlNetModel(**TINY_CONTROLNET),
    }
    for part, module in modules.items():
        shapes = {name: value.shape for name, value in module.state_dict().items()}
        module.load_state_dict(seeded_state(shapes, part, SEED))
        module.eval()
    size = TINY.multimodal.vision["image_size"]
    return {
        **modules,
        "tokenizer": tokenizer,
        "scheduler": PNDMScheduler(**PUBLIC_SCHEDULER),
        "image_processor": BlipImageProcessor(size={"height": size, "width": size}),
    }


class LavisImageProcessor(BlipImageProcessor):
    """LAVIS's preprocessing of the subject: the short side resized, the centre cropped, by torchvision."""

    def preprocess(self, images: Any, **_: Any) -> dict[str, torch.Tensor]:
        side = self.size["height"]
        steps = [
            transforms.Resize(side, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(side),
            transforms.ToTensor(), transforms.Normalize(self.image_mean, self.image_std),
        ]  # fmt: skip
        return {"pixel_values": transforms.Compose(steps)(images).unsqueeze(0)}


def record(pipe: Any, case: dict[str, Any], **extra: Any) -> dict[str, np.ndarray]:
    """Every stage of one call of the pipeline."""
    found: dict[str, np.ndarray] = {}
    pipe.set_progress_bar_config(disable=True)
    embed, encode, decode = pipe.get_query_embeddings, pipe.encode_prompt, pipe.vae.decode

    def get_query_embeddings(pixels: torch.Tensor, words: list[str]) -> torch.Tensor:
        vectors = extra.get("cache")
        vectors = embed(pixels, words) if vectors is None else vectors
        found["pixels"], found["subject"] = pixels.numpy(), vectors.numpy()
        return vectors

    def encode_prompt(*args: Any) -> torch.Tensor:
        hidden = encode(*args)
        found["prompt"] = hidden.numpy()
        return hidden

    def vae_decode(z: torch.Tensor, **options: Any) -> Any:
        found["latents"] = (z * pipe.vae.config.scaling_factor).numpy()
        return decode(z, **options)

    pipe.get_query_embeddings, pipe.encode_prompt, pipe.vae.decode = get_query_embeddings, encode_prompt, vae_decode
    height, width = case["size"]
    call: dict[str, Any] = {}
    if "condition" in case:
        call["condtioning_image"] = condition(case["condition"]).convert("RGB")
    try:
        images = pipe(
            prompt=case["prompts"],
            reference_image=image(case["image"], SUBJECT),
            source_subject_category=[SUBJECT] * len(case["prompts"]),
            target_subject_category=case["targets"],
            guidance_scale=case["guidance"],
            num_inference_steps=case["steps"],
            prompt_reps=case["reps"],
            height=height,
            width=width,
            generator=[torch.Generator().manual_seed(seed) for seed in case["seeds"]],
            neg_prompt=NEGATIVE,
            output_type="np",
            **call,
        ).images
    finally:
        pipe.get_query_embeddings, pipe.encode_prompt, pipe.vae.decode = embed, encode, decode
    return {**found, "images": np.asarray(images)}


def check_exported(tiny: Path, expected: dict[str, np.ndarray]) -> None:
    """The reference loads the folder that bdkit wrote, and draws the same with it."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(shutil.copytree(tiny, Path(temporary) / "copy"))
        config = json.loads((copy / "qformer" / "config.json").read_text())
        config["tokenizer"] = str(copy / "qformer_tokenizer")
        (copy / "qformer" / "config.json").write_text(json.dumps(config))
        pipe = BlipDiffusionPipeline.from_pretrained(copy)
        found = record(pipe, CASES["square"])
    worst = {stage: float(np.abs(found[stage] - expected[stage]).max()) for stage in expected}
    print("exported folder read by the reference, largest difference by stage:", worst)
    assert max(worst.values()) == 0, worst


def main() -> None:
    tiny, out = Path(sys.argv[1]), Path(sys.argv[2])
    parts = build(tiny)
    out.mkdir(parents=True, exist_ok=True)
    keys = {part: {name: list(v.shape) for name, v in parts[part].state_dict().items()} for part in PARTS}
    (out / "keys.json").write_text(json.dumps(keys, indent=0, sort_keys=True) + "\n")
    plain = {name: part for name, part in parts.items() if name != "controlnet"}
    pipe, control = BlipDiffusionPipeline(**plain), BlipDiffusionControlNetPipeline(**parts)
    size = parts["image_processor"].size
    lavis = BlipDiffusionPipeline(**{**plain, "image_processor": LavisImageProcessor(size=size)})
    cache = torch.from_numpy(cached_subject(TINY.multimodal.num_query_tokens, TINY.text_encoder["hidden_size"]))
    golden = {name: record(pipe, case) for name, case in CASES.items()}
    golden |= {name: record(control, case) for name, case in CONTROL_CASES.items()}
    for name, case in LAVIS_CASES.items():
        golden[name] = record(lavis, case, **({"cache": cache} if "cached" in name else {}))
    for name, found in golden.items():
        kept = {k: v for k, v in found.items() if name in CASES or k != "prompt"}  # theirs are those of the plain cases
        np.savez_compressed(out / f"{name}.npz", **kept)
        print(name, {k: (v.shape, round(float(np.abs(v).max()), 3)) for k, v in found.items()})
    check_exported(tiny, golden["square"])


if __name__ == "__main__":
    with torch.no_grad():
        main()
