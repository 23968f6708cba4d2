"""The attention processors: what they compute, where they compute maps, and that they come off again."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bdkit.editing import attention_control as module
from bdkit.editing.alignment import equalizer_factors, replacement_schedule
from bdkit.editing.attention_control import (
    AttentionEdit,
    AttentionRefine,
    AttentionReplace,
    AttentionReweight,
    AttentionStore,
    attention_control,
    level_size,
    stored_layers,
)
from bdkit.editing.prompt_tokens import encode_prompts
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model

PROMPTS = ["a cat on the beach", "a dog on the beach"]
NEW = ["a cat on the beach", "a red cat on the wet beach"]


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return tiny_model()


def plain_maps(model: BlipDiffusion, latents: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """The maps of one layer after another, (rows, heads, queries, L), by hooks on its queries and keys."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, layer in model.unet.named_modules():
        if name.endswith("attn2"):

            def record(attn: Any, _args: Any, kwargs: dict[str, Any], _out: Any, name: str = name) -> None:
                states, context = _args[0] if _args else kwargs["hidden_states"], kwargs["encoder_hidden_states"]
                query, key = (
                    part.unflatten(2, (attn.heads, -1)).transpose(1, 2)
                    for part in (attn.to_q(states), attn.to_k(context))
                )
                found[name] = (query.double() @ key.double().transpose(2, 3) * attn.scale).softmax(-1)

            hooks.append(layer.register_forward_hook(record, with_kwargs=True))
    with torch.no_grad():
        model.unet(latents, 500, hidden)
    for hook in hooks:
        hook.remove()
    return found


def control_of(model: BlipDiffusion, prompts: Sequence[str], kind: Any, **settings: Any) -> AttentionEdit:
    tokens, _ = encode_prompts(model, prompts)
    schedule = replacement_schedule(tokens[1:], 4, settings.pop("cross", 1.0))
    return kind(tokens, [0] * len(prompts), schedule, settings.pop("self_replace", 0.5), **settings)


def run(model: BlipDiffusion, control: AttentionStore, prompts: Sequence[str], call: int = 0) -> Tensor:
    """One U-Net call on [negative rows; prompts]."""
    _, hidden = encode_prompts(model, prompts)
    _, negative = encode_prompts(model, [""])
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).expand(2 * len(prompts), -1, -1, -1)
    control.call = call
    with torch.no_grad(), attention_control(model.unet, control):
        return model.unet(latents, 500, torch.cat([negative.expand_as(hidden), hidden])).sample


def test_a_store_changes_nothing_and_keeps_the_deepest_levels_maps(model: BlipDiffusion) -> None:
    control = AttentionStore([0, 0])
    result = run(model, control, PROMPTS)
    _, hidden = encode_prompts(model, PROMPTS)
    _, negative = encode_prompts(model, [""])
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).expand(4, -1, -1, -1)
    context = torch.cat([negative.expand_as(hidden), hidden])
    with torch.no_grad():
        assert torch.allclose(result, model.unet(latents, 500, context).sample, atol=1e-5)
    maps = plain_maps(model, latents, context)
    assert control.layers == stored_layers(model.unet)
    expected = torch.stack([maps[name.removesuffix(".processor")][2:].mean(dim=1) for name in control.layers]).mean(0)
    assert torch.allclose(control.maps(8, 8).flatten(1, 2).double(), expected, atol=1e-6)
    assert torch.allclose(control.maps(8, 8).sum(-1), torch.ones(2, 8, 8), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "prompts"), [(AttentionReplace, PROMPTS), (AttentionRefine, NEW), (AttentionRefine, [*NEW, *PROMPTS[1:]])]
)
def test_the_targets_maps_are_mixed_of_the_sources(model: BlipDiffusion, kind: Any, prompts: list[str]) -> None:
    """Against sums over single tokens, in float64."""
    control = control_of(model, prompts, kind, cross={"default_": 1.0, "beach": (0.5, 1.0)})
    maps = torch.rand(len(prompts), 2, 6, 20, generator=torch.Generator().manual_seed(0)).softmax(-1)
    for call in (0, 3):
        control.call = call
        edited = control.edit(maps)
        assert torch.equal(edited[0], maps[0])
        for number, row in enumerate(control.targets):
            expected = torch.zeros(2, 6, 20, dtype=torch.float64)
            for token in range(20):
                new = maps[row, ..., token].double() * control.own[number, token]
                for source in range(20):
                    new += maps[0, ..., source].double() * control.mapper[number, source, token]
                share = float(control.schedule[call, number, token])
                expected[..., token] = new * share + maps[row, ..., token].double() * (1 - share)
            assert torch.allclose(edited[row].double(), expected, atol=1e-6)


def test_reweighting_chains_and_does_not_renormalise(model: BlipDiffusion) -> None:
    tokens, _ = encode_prompts(model, NEW)
    refine = control_of(model, NEW, AttentionRefine)
    factors = equalizer_factors(tokens[1:], {"red": 3.0, "cat": -1.0})
    chained = AttentionReweight([0, 0], factors, refine.schedule, 0.5, refine)
    alone = AttentionReweight([0, 0], factors, refine.schedule, 0.5)
    maps = torch.rand(2, 2, 6, 20, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert torch.allclose(chained.edit(maps)[1], refine.edit(maps)[1] * factors[0], atol=1e-7)
    assert torch.allclose(alone.edit(maps)[1], maps[0] * factors[0], atol=1e-7)


def test_self_attention_is_the_sources_without_a_map(model: BlipDiffusion) -> None:
    """Against the explicit product of the source's map with the target's values."""
    control = control_of(model, PROMPTS, AttentionReplace)
    attn = next(layer for name, layer in model.unet.named_modules() if name.endswith("attn1"))
    states = torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(0))
    processor = module.ControlledAttention(attn.processor, control, stored=False)
    with torch.no_grad():
        result = processor(attn, states)
        query, key, value = (
            part.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(states), attn.to_k(states), attn.to_v(states))
        )
        maps = (query @ key.transpose(2, 3) * attn.scale).softmax(-1)
        maps[3] = maps[2]
        expected = attn.to_out[0]((maps @ value).transpose(1, 2).flatten(2))
        assert torch.allclose(result, expected, atol=1e-5)
        control.call = 2  # half of the 4 steps
        assert torch.equal(processor(attn, states), attn.processor(attn, states))


@pytest.mark.parametrize(
    ("storing", "call", "maps"),
    # the cross-attention has 1 layer down and 2 up, which are stored, and 1 in the middle
    [(True, 0, 4), (False, 0, 4), (True, 3, 3), (False, 3, 0)],
)
def test_maps_are_computed_only_where_they_are_used(
    model: BlipDiffusion, monkeypatch: pytest.MonkeyPatch, storing: bool, call: int, maps: int
) -> None:
    counts = {"maps": 0, "fused": 0}
    attention = type(next(layer for name, layer in model.unet.named_modules() if name.endswith("attn2")))
    scores, fused = attention.get_attention_scores, F.scaled_dot_product_attention

    def counted_scores(*args: Any) -> Tensor:
        counts["maps"] += 1
        return scores(*args)

    def counted_fused(*args: Any, **kwargs: Any) -> Tensor:
        counts["fused"] += 1
        return fused(*args, **kwargs)

    monkeypatch.setattr(attention, "get_attention_scores", counted_scores)
    monkeypatch.setattr(F, "scaled_dot_product_attention", counted_fused)
    run(model, control_of(model, PROMPTS, AttentionReplace, cross=0.6, storing=storing), PROMPTS, call)
    # 8 layers, of which the edited ones fuse the rows without control; the text encoder reads 3 batches of prompts
    assert counts == {"maps": maps, "fused": 8 + 3}


def test_the_processors_come_off_again(model: BlipDiffusion) -> None:
    before = model.unet.attn_processors
    with attention_control(model.unet, AttentionStore([0])):
        assert all(isinstance(p, module.ControlledAttention) for p in model.unet.attn_processors.values())
    wrong = torch.zeros(1, 4, 8, 8), 500, torch.zeros(1, 20, 7)
    with pytest.raises(RuntimeError), attention_control(model.unet, AttentionStore([0])):
        model.unet(*wrong)
    after = model.unet.attn_processors
    assert all(after[name] is processor for name, processor in before.items())


def test_layers_and_sizes_of_other_unets() -> None:
    assert level_size(64, 64, 256) == (16, 16)
    assert level_size(72, 100, 18 * 25) == (18, 25)
    assert level_size(9, 7, 20) == (5, 4)
    names = stored_layers(tiny_model().unet)
    assert [name.split(".")[0] for name in names] == ["down_blocks", "up_blocks", "up_blocks"]


def test_half_precision_and_sizes_that_halve_with_a_rest(model: BlipDiffusion) -> None:
    half = tiny_model().to(torch.bfloat16)
    control = control_of(model, PROMPTS, AttentionReplace)
    _, hidden = encode_prompts(half, PROMPTS)
    latents = (
        torch.randn(1, 4, 9, 7, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16).expand(2, -1, -1, -1)
    )
    with torch.no_grad(), attention_control(half.unet, control):
        assert half.unet(latents, 500, hidden).sample.dtype == torch.bfloat16
    assert control.maps(9, 7).shape == (2, 9, 7, 20)
    assert control.maps(9, 7).dtype == torch.float32
