"""Custom Diffusion: what is trained, against a plain loop and the authors' attention in diffusers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from PIL import Image
from torch import Tensor

from bdkit.checkpoints.adapters import key_values
from bdkit.methods import build_method
from bdkit.methods.custom_diffusion import CustomDiffusionLoss
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model

TEMPLATE = "a {} {} in the jungle"
WEIGHT = 0.5
Training = tuple[Any, CustomDiffusionLoss, tuple[Tensor, ...]]


def build(model: BlipDiffusion, **settings: Any) -> Any:
    values = {"start": None, "class_images": 3, "snapshots": (), "learning_rate": 1e-2, "steps": 3, **settings}
    return build_method("custom-diffusion", model, preset="mini", **values)


def subject_images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(3)]


@contextmanager
def training(model: BlipDiffusion) -> Iterator[Training]:
    """A method amid its training, with the module and a batch of two images of the subject and two of the class."""
    method = build(model, prior_loss_weight=WEIGHT, templates=("photo of a {}", "a red {}"), batch_size=2)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(4, 4, 8, 8, generator=generator)
    with method._training():
        yield method, method._loss("dog"), (latents[:2], torch.tensor([1, 0]), latents[2:])


def hidden_states(method: Any, *prompts: str) -> Tensor:
    """The text encoder's output as a drawing has it, after the placeholder's first embedding is in its row."""
    placeholder = method._embedding_of(method.config.initializer_token)
    method._apply({"placeholder": placeholder} | {f"unet.{k}": v.detach() for k, v in key_values(method._unet).items()})
    with method._drawing():
        return torch.cat([method.model.encode_prompt(prompt, prompt_reps=1) for prompt in prompts])


def noised(method: Any, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, timesteps, and the noisy latents by the schedule's closed form."""
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(0, 1000, (len(latents),), generator=generator)
    config = method.model.scheduler.config
    betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, 1000) ** 2
    signal = torch.from_numpy(np.cumprod(1 - betas)[timesteps]).float().reshape(-1, 1, 1, 1)
    return noise, timesteps, signal.sqrt() * latents + (1 - signal).sqrt() * noise


def plain_loss(method: Any, unet: Any, batch: tuple[Tensor, ...], hidden: Tensor) -> Tensor:
    """Image by image: squared error of the noise, the subject's mean plus the weighted mean of the class."""
    generator, losses = torch.Generator().manual_seed(5), []
    for latents, texts in ((batch[0], hidden[:2]), (batch[2], hidden[2:])):
        noise, timesteps, noisy = noised(method, latents, generator)
        errors = [
            (unet(noisy[i : i + 1], timesteps[i], texts[i : i + 1]).sample - noise[i]).double().square().mean()
            for i in range(len(latents))
        ]
        losses.append(sum(errors) / len(errors))
    return losses[0] + WEIGHT * losses[1]


def test_the_loss_is_that_of_a_plain_loop_and_only_the_named_parameters_have_gradients(model: BlipDiffusion) -> None:
    with training(model) as (method, module, batch):
        loss, logs = module(batch, torch.Generator().manual_seed(5))
        loss.backward()
        hidden = hidden_states(method, "a red <new1> dog", "photo of a <new1> dog", "a dog", "a dog")
        with torch.no_grad():
            expected = plain_loss(method, method._unet, batch, hidden)
        assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
        assert 0 < float(logs["prior_loss"]) < float(loss.detach())
        with_gradients = {name for name, p in module.named_parameters() if p.grad is not None}
        projections = {f"unet.{name}" for name in key_values(method._unet)}
        assert len(projections) == 2 * sum(".attn2." in name for name in method._unet.attn_processors)
        assert with_gradients == {"placeholder", *projections}
        assert all(p.grad is None for p in (*model.unet.parameters(), *model.text_encoder.parameters()))
        shared = {id(p) for p in model.unet.parameters()}
        assert {name for name, p in method._unet.named_parameters() if id(p) not in shared} == {*key_values(model.unet)}


def test_gradients_are_those_of_the_authors_attention(model: BlipDiffusion) -> None:
    with training(model) as (method, module, batch):
        module(batch, torch.Generator().manual_seed(5))[0].backward()
        ours = {name: p.grad for name, p in key_values(method._unet).items()}
        hidden = hidden_states(method, "a red <new1> dog", "photo of a <new1> dog", "a dog", "a dog")
    theirs = tiny_model().unet.requires_grad_(False)
    for name, attention in theirs.named_modules():
        if name.endswith(("attn1", "attn2")):
            size, text = attention.to_k.weight.shape
            trained = name.endswith("attn2")
            processor = CustomDiffusionAttnProcessor(
                train_kv=trained, train_q_out=False, hidden_size=size, cross_attention_dim=text
            )
            if trained:
                processor.to_k_custom_diffusion.weight.data = attention.to_k.weight.clone()
                processor.to_v_custom_diffusion.weight.data = attention.to_v.weight.clone()
            attention.set_processor(processor)
    plain_loss(method, theirs, batch, hidden).backward()
    for name, gradient in ours.items():
        layer, _, kind = name.removesuffix(".weight").rpartition(".")
        expected = getattr(theirs.get_submodule(f"{layer}.processor"), f"{kind}_custom_diffusion").weight.grad
        assert gradient.abs().max() > 0
        assert (gradient - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_word_starts_from_the_rare_token_and_draws_what_it_means(model: BlipDiffusion) -> None:
    weight = model.text_encoder.model.embeddings.token_embedding.weight
    ids = model.tokenizer("toy vase", add_special_tokens=False).input_ids
    assert len(ids) == 2
    method = build(model, steps=1, learning_rate=0.0, initializer_token="toy vase")
    method.fit(subject_images(), "dog", 0)
    assert torch.allclose(method.state()["1/placeholder"], weight[ids].mean(dim=0))
    method = build(model, steps=1, learning_rate=0.0, initializer_token="vase")
    method.fit(subject_images(), "dog", 0)
    drawn, expected = method.generate(TEMPLATE, "dog", [1]), model("a vase dog in the jungle", seeds=[1])
    assert drawn[0].tobytes() == expected[0].tobytes()


def test_the_images_of_the_class_are_drawn_once_and_left_out_without_weight(model: BlipDiffusion) -> None:
    method = build(model)
    method.fit(subject_images(), "dog", 0)
    latents = method._class_latents["dog"]
    assert latents.shape == (3, 4, 8, 8)
    method.fit(subject_images(), "dog", 1)
    assert method._class_latents["dog"] is latents
    assert "prior_loss" in method.history[-1]
    without = build(model, class_images=0)
    without.fit(subject_images(), "dog", 0)
    assert not without._class_latents
    assert "prior_loss" not in without.history[-1]
