"""What `full_size.py` times beside zero-shot drawing and fine-tuning: a stage-2 step, diffusers, scoring, prepare."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from PIL import Image, ImageDraw
from torch.utils.flop_counter import FlopCounterMode

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import PUBLIC_SCHEDULER
from bdkit.models.latent_diffusion import encode_images
from bdkit.training.preparation.prepare import PrepareConfig, prepare_part
from bdkit.training.pretraining.config import SubjectRepresentationConfig
from bdkit.training.pretraining.subject_representation import SubjectBatch, SubjectRepresentationLoss
from bdkit.training.shards.sources import Row as InputRow
from bdkit.utils.images import decode_image
from eval.score.encoders import Encoder, crop_pixels
from eval.score.protocols import Preprocessing

STAGE2_BATCH = 16  # the paper's total batch (Sec. 4)
TEXT = "a dog in the jungle"
HOW = Preprocessing(short_side=256, crop=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
TINY_HOW = Preprocessing(short_side=None, crop=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def stage2_step(model: BlipDiffusion, precision: torch.dtype | None) -> Callable[[], None]:
    """One optimiser step of stage 2, the VAE's encoding of the targets included; AdamW in float32."""
    device, queries = model.device, model.multimodal_encoder.config.num_query_tokens
    config = SubjectRepresentationConfig(noise_weights=None)
    loss_of = SubjectRepresentationLoss(model, config).train()
    loss_of.multimodal_encoder.vision_model.requires_grad_(False)
    model.unet.enable_gradient_checkpointing()
    trained = [p.requires_grad_() for p in loss_of.parameters()]
    frozen = {id(p) for p in model.multimodal_encoder.vision_model.parameters()}
    for parameter in trained:
        parameter.requires_grad_(id(parameter) not in frozen)
    optimiser = torch.optim.AdamW([p for p in trained if p.requires_grad], lr=2e-6)
    images = torch.rand(STAGE2_BATCH, 3, model.resolution, model.resolution, device=device) * 2 - 1
    side, length = model.multimodal_encoder.image_size, model.text_encoder.max_length
    words = torch.zeros(STAGE2_BATCH, 4, dtype=torch.long, device=device)
    mask = torch.zeros(STAGE2_BATCH, length, dtype=torch.bool, device=device)
    mask[:, 2 : 2 + queries] = True
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        with torch.no_grad():
            latents = encode_images(model.vae, images)
        batch = SubjectBatch(
            latents=latents,
            pixels=torch.zeros(STAGE2_BATCH, 3, side, side, device=device),
            word_ids=words,
            word_mask=torch.ones_like(words),
            input_ids=torch.zeros(STAGE2_BATCH, length, dtype=torch.long, device=device),
            subject_mask=mask,
        )
        with torch.autocast(device.type, precision or torch.bfloat16, enabled=precision is not None):
            loss, _ = loss_of(batch, generator)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def stage2_flop(counted: dict[str, float], passes: int) -> float:
    """The U-Net, the text encoder and the Q-Former are trained; the image encoder and the VAE run once."""
    trained = counted["unet"] + counted["text_encoder"] + counted["multimodal_encoder"] - counted["image_encoder"]
    return STAGE2_BATCH * (passes * trained + counted["image_encoder"] + counted["encode"])


def diffusers_pipeline(model: BlipDiffusion) -> StableDiffusionPipeline:
    """diffusers' own text-to-image with the very modules of a model."""
    pipeline = StableDiffusionPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder.model,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=PNDMScheduler(**PUBLIC_SCHEDULER | {"steps_offset": 1}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_with_diffusers(model: BlipDiffusion, steps: int) -> None:
    """One image of a text by diffusers."""
    side = model.resolution
    diffusers_pipeline(model)(TEXT, num_inference_steps=steps, guidance_scale=7.5, height=side, width=side)


def draw_text(model: BlipDiffusion, steps: int) -> None:
    """The same by bdkit."""
    model(TEXT, num_inference_steps=steps, guidance_scale=7.5)


def scoring(count: int, side: int, device: str, tiny: bool) -> tuple[Callable[[], Any], float]:
    """DINO ViT-S/16 and CLIP ViT-B/32 on `count` PNG files, decoded and cropped on one CPU core; and its FLOPs."""
    how = TINY_HOW if tiny else HOW
    small = {"img_size": 32, "depth": 2} if tiny else {}
    networks = {"dino": timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0, **small)}
    if not tiny:
        networks["clip"] = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).visual
    flop = 0.0
    for network in networks.values():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.zeros(1, 3, how.crop, how.crop))
        flop += count * counter.get_total_flops()
    encoders = [Encoder(network, how, name, {}, device) for name, network in networks.items()]
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        file = io.BytesIO()
        smooth = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((side, side))
        smooth.save(file, "PNG")
        files.append(file.getvalue())

    def score() -> None:
        crops = np.stack([crop_pixels(decode_image(data, "an image")[0], how) for data in files])
        for encoder in encoders:
            encoder.embed(crops)

    return score, flop


def preparing(count: int, side: int, folder: Path) -> Callable[[], Any]:
    """`bdkit prepare` of images with binary masks on one CPU core: trimap, matting, foreground, encoding."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))
        mask = Image.new("L", (side, side))
        corner = side * (0.2 + 0.01 * number)
        for shown, colour in ((image, (200, 40, 40)), (mask, 255)):
            ImageDraw.Draw(shown).ellipse((corner, corner, 0.8 * side, 0.75 * side), fill=colour)
        paths = [str(folder / f"{name}{number}.png") for name in ("image", "mask")]
        image.save(paths[0])
        mask.save(paths[1])
        rows.append(
            InputRow(
                number=number,
                key=f"{number}",
                source=paths[0],
                image=(paths[0], None, None),
                mask=(paths[1], None, None),
                caption="a dog",
                subject="dog",
            )
        )
    config = PrepareConfig(masks=str(folder), size=side)

    def prepare() -> None:
        assert all(item.record for item in prepare_part(rows, config))

    return prepare
