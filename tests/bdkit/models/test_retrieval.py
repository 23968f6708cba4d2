"""Re-Imagen's conditioning: without effect at first, then what the formulas say, exact in the image's seed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bdkit.checkpoints.re_imagen import additions, new_retrieval_unet
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import RetrievalConfig
from bdkit.models.retrieval import InterleavedGuidance, NeighbourAttention, RetrievalUNet, guided_by_text
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

CONFIG = RetrievalConfig(heads=2)


def inputs(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noisy, hidden = (torch.randn(count, *shape, generator=generator) for shape in ((4, 8, 8), (20, 32)))
    return noisy, torch.arange(5, 1000, 900)[:count], hidden


def filled(model: BlipDiffusion, seed: int = 0, up_block: int = 0) -> RetrievalUNet:
    """One whose additions do something."""
    unet, generator = new_retrieval_unet(model, replace(CONFIG, up_block=up_block)), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in additions(unet).values():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return unet.requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return tiny_model()


@pytest.mark.parametrize("up_block", [0, 1])
@torch.no_grad()
def test_before_any_step_the_base_predicts_the_same_bits(model: BlipDiffusion, up_block: int) -> None:
    unet, (noisy, time, hidden) = new_retrieval_unet(model, replace(CONFIG, up_block=up_block)), inputs()
    neighbours = unet.encode(noisy, hidden)
    for shown in (torch.ones(2), torch.zeros(2), torch.tensor([True, False])):
        assert torch.equal(unet(noisy, time, hidden, neighbours, shown).sample, model.unet(noisy, time, hidden).sample)
    assert not model.unet.up_blocks[up_block]._forward_pre_hooks


@pytest.mark.parametrize("up_block", [0, 1])
@torch.no_grad()
def test_what_is_encoded_is_the_down_half_at_timestep_0_and_what_it_adds_to_is_the_up_half(
    model: BlipDiffusion, up_block: int
) -> None:
    unet, (latents, _, hidden) = filled(model, up_block=up_block), inputs()
    blocks, seen = unet.unet.down_blocks, {}
    down = blocks[len(blocks) - 1 - up_block]
    layer = down.attentions[-1] if getattr(down, "attentions", None) else down.resnets[-1]
    handles = [
        layer.register_forward_hook(lambda _, __, out: seen.update(down=out if torch.is_tensor(out) else out[0])),
        unet.unet.up_blocks[up_block].register_forward_pre_hook(
            lambda _, __, given: seen.update(up=given["hidden_states"]), with_kwargs=True
        ),
    ]
    unet.unet(latents, 0, hidden)
    plain, encoded = dict(seen), unet.encode(latents, hidden)
    assert torch.equal(encoded, plain["down"].flatten(2).transpose(1, 2))
    unet(latents, torch.zeros(2), hidden, encoded, torch.tensor([True, False]))
    for handle in handles:
        handle.remove()
    # the hook above stands before the attention's, so it sees what the block before put out, at the same resolution
    assert torch.equal(seen["up"], plain["up"])
    assert plain["up"].shape[2:] == plain["down"].shape[2:]


def test_a_block_that_the_unet_lacks_is_refused(model: BlipDiffusion) -> None:
    for wrong in (-1, len(model.unet.up_blocks)):
        with pytest.raises(InputError, match=f"up_block is {wrong}; this U-Net's are 0 to"):
            new_retrieval_unet(model, replace(CONFIG, up_block=wrong))


@torch.no_grad()
def test_the_attention_against_plain_loops() -> None:
    heads, channels, near_channels, generator = 3, 12, 7, torch.Generator().manual_seed(0)
    attention = NeighbourAttention(channels, near_channels, heads).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    features, neighbours = (
        torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        for shape in ((channels, 2, 3), (5, near_channels))
    )
    shown = torch.tensor([1, 0])
    ours = attention(features, neighbours, shown).numpy()

    weights = {name: value.numpy() for name, value in attention.state_dict().items()}

    def normed(row: np.ndarray, name: str) -> np.ndarray:
        scaled = (row - row.mean()) / math.sqrt(row.var() + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    for b in range(2):
        for y in range(2):
            for x in range(3):
                before = features[b, :, y, x].numpy()
                query = weights["attention.to_q.weight"] @ normed(before, "norm")
                near = [normed(row, "neighbour_norm") for row in neighbours[b].numpy()]
                keys, values = ([weights[f"attention.to_{part}.weight"] @ row for row in near] for part in "kv")
                seen = np.zeros(channels)
                for h in range(heads):
                    part = slice(h * 4, h * 4 + 4)
                    scores = np.array([math.exp(query[part] @ key[part] / 2) for key in keys])  # 2 = sqrt(4)
                    for share, value in zip(scores / scores.sum(), values, strict=True):
                        seen[part] += share * value[part]
                seen = weights["attention.to_out.0.weight"] @ seen + weights["attention.to_out.0.bias"]
                assert np.allclose(ours[b, :, y, x], before + int(shown[b]) * seen, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_interleaved_guidance_against_its_formula() -> None:
    unet, (noisy, _, hidden) = filled(tiny_model()).double(), inputs(1)
    noisy, hidden, time = noisy.double(), hidden.double(), torch.tensor(400)
    neighbours, null = unet.encode(noisy + 1, hidden), hidden.flip(1)
    w_text, w_near, seeds = 3.0, 1.7, [3, 4, 5, 6]
    by_text = [guided_by_text(seed, 400, 0.5) for seed in seeds]
    assert {*by_text} == {True, False}
    guided = InterleavedGuidance(
        unet, neighbours, null, seeds, guidance_scale=w_text, neighbour_guidance_scale=w_near, text_share=0.5
    )
    ours = guided(noisy.repeat(4, 1, 1, 1), time, hidden.repeat(4, 1, 1)).sample

    def e(text: Tensor, shown: int) -> Tensor:
        return unet(noisy, time, text, neighbours, torch.tensor([shown])).sample

    with_both, neighbours_alone, text_alone = e(hidden, 1), e(null, 1), e(hidden, 0)
    by_words = w_text * with_both - (w_text - 1) * neighbours_alone
    by_neighbours = w_near * with_both - (w_near - 1) * text_alone
    assert not torch.allclose(by_words, by_neighbours)
    for k, text in enumerate(by_text):
        assert torch.allclose(ours[k], (by_words if text else by_neighbours)[0], rtol=1e-9, atol=1e-9)


def test_the_share_of_the_text_and_its_seed() -> None:
    draws = np.array([[guided_by_text(seed, time, 0.3) for time in range(100)] for seed in range(50)])
    assert abs(draws.mean() - 0.3) < 0.03
    assert 0 < draws.mean(0).min() < draws.mean(0).max() < 1  # neither the seed nor the timestep alone decides
    assert 0 < draws.mean(1).min() < draws.mean(1).max() < 1
    assert guided_by_text(-1, 3, 1.0)
    assert not guided_by_text(2**80, 999.5, 0.0)
