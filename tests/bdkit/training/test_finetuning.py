"""Few-step fine-tuning: it learns the images, touches only what it should, and is exact in seed and steps."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model
from bdkit.training import finetuning
from bdkit.training.config import FewStepConfig, FinetuneConfig
from bdkit.training.loop import TrainingDiverged
from bdkit.utils.errors import InputError


def subject_images(count: int = 4, seed: int = 0) -> list[Image.Image]:
    """A disc of one colour at different places: what a subject's images have in common."""
    rng = np.random.default_rng(seed)
    colour = tuple(int(value) for value in rng.integers(0, 256, 3))
    images = []
    for _ in range(count):
        image = Image.new("RGB", (48, 40), tuple(int(value) for value in rng.integers(0, 256, 3)))
        x, y = rng.integers(0, 20, 2)
        ImageDraw.Draw(image).ellipse((x, y, x + 18, y + 18), fill=colour)
        images.append(image)
    return images


def test_latents_of_images_and_their_mirror_images(model: BlipDiffusion) -> None:
    images = subject_images(5)
    plain, both = (
        finetuning.cache_latents(model, images, 0),
        finetuning.cache_latents(model, images, 0, random_flip=True),
    )
    assert plain.shape == (5, 4, 8, 8)
    assert torch.allclose(both[:5], plain, atol=1e-5)
    assert torch.allclose(both[5:], finetuning.cache_latents(model, [ImageOps.mirror(i) for i in images], 0), atol=1e-5)
    assert not torch.allclose(both[5:], plain, atol=1e-3)
    with pytest.raises(InputError, match="no subject image"):
        finetuning.cache_latents(model, [], 0)


def test_a_batch_holds_different_images_and_flipping_draws_none_twice() -> None:
    latents = torch.arange(4.0).view(4, 1, 1, 1)
    seen = set()
    for seed in range(20):
        batch = finetuning.draw_latents(latents, 3, torch.Generator().manual_seed(seed)).flatten().tolist()
        assert len(set(batch)) == 3
        seen |= set(batch)
    assert seen == {0, 1, 2, 3}
    assert finetuning.draw_latents(latents[:2], 3, torch.Generator().manual_seed(0)).shape == (3, 1, 1, 1)
    latents = torch.arange(8.0).view(8, 1, 1, 1)
    drawn = set()
    for seed in range(20):
        batch = finetuning.draw_latents(latents, 4, torch.Generator().manual_seed(seed), random_flip=True).flatten()
        assert len(set((batch % 4).tolist())) == 4
        drawn |= set(batch.tolist())
    assert drawn == set(range(8))


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"batch_size": 0}, {"steps": 10, "snapshots": (11,)}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        FewStepConfig(**wrong)


def test_fine_tuning_lowers_the_loss_on_its_images_and_leaves_the_model_alone(model: BlipDiffusion) -> None:
    images = subject_images()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    calls = []
    handle = model.multimodal_encoder.register_forward_hook(lambda *_: calls.append(1))
    unet = copy.deepcopy(model.unet)
    config = FinetuneConfig(steps=20, learning_rate=3e-3)
    kept, history = finetuning.finetune_subject(model, unet, images, "dog", config, seed=0)
    handle.remove()

    latents = finetuning.cache_latents(model, images, 0)
    old = finetuning.SubjectFinetuning(
        model, model.unet, finetuning.mean_embedding(model, images, "dog"), "dog", train_embedding=True
    )
    new = finetuning.SubjectFinetuning(model, unet, kept[20]["subject_embeddings"], "dog", train_embedding=True)
    with torch.no_grad():
        losses = [
            np.mean([float(part(latents, torch.Generator().manual_seed(seed))[0]) for seed in range(100, 108)])
            for part in (old, new)
        ]
    assert losses[1] < 0.8 * losses[0]
    assert len(history) == 20
    assert len(calls) == 1  # the multimodal encoder is not run again

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(module.training for module in model.modules())


def test_a_snapshot_is_what_a_shorter_run_gives(model: BlipDiffusion) -> None:
    images = subject_images()

    def run(config: FinetuneConfig) -> dict:
        return finetuning.finetune_subject(model, copy.deepcopy(model.unet), images, "dog", config, seed=3)[0]

    long, short = run(FinetuneConfig(steps=6, snapshots=(0, 3))), run(FinetuneConfig(steps=3))
    assert sorted(long) == [0, 3, 6]
    assert long[3].keys() == short[3].keys()
    assert all(torch.equal(long[3][name], value) for name, value in short[3].items())
    assert all(torch.equal(long[0][f"unet.{name}"], p) for name, p in model.unet.named_parameters())
    assert not torch.equal(long[6]["unet.conv_in.weight"], long[3]["unet.conv_in.weight"])


def test_the_embedding_is_the_mean_over_the_images_and_is_trained_on_demand(model: BlipDiffusion) -> None:
    images = subject_images()
    mean = torch.stack([model.encode_subject(image, "dog")[0] for image in images]).mean(dim=0, keepdim=True)

    def embedding(**settings: object) -> torch.Tensor:
        config = FinetuneConfig(learning_rate=1e-3, **settings)
        return finetuning.finetune_subject(model, copy.deepcopy(model.unet), images, "dog", config, seed=0)[0][
            config.steps
        ]["subject_embeddings"]

    assert torch.allclose(embedding(steps=0), mean, atol=1e-5)
    assert torch.allclose(embedding(steps=2, train_embedding=False), mean, atol=1e-5)
    moved = (embedding(steps=2) - mean).abs()
    assert moved.max() > 1e-3
    assert (moved > 1e-5).float().mean() > 0.9  # the gradient reaches every subject vector through the text encoder


def test_a_loss_that_is_not_finite_stops_the_run_and_the_model_is_as_before(model: BlipDiffusion) -> None:
    unet = copy.deepcopy(model.unet)
    with torch.no_grad():
        unet.conv_in.bias.fill_(float("nan"))
    flags = [p.requires_grad for p in model.text_encoder.parameters()]
    with pytest.raises(TrainingDiverged, match="step 0"):
        finetuning.finetune_subject(model, unet, subject_images(), "dog", FinetuneConfig(steps=2), seed=0)
    assert [p.requires_grad for p in model.text_encoder.parameters()] == flags


def test_the_tiny_model_is_the_same_each_time_and_frozen_restores_each_flag() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = tiny_model(1), tiny_model(1)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    layer = torch.nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with finetuning.frozen(layer):
        assert not layer.weight.requires_grad
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad
