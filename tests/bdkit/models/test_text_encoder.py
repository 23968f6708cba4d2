"""Subject vectors among token embeddings: at the right places, causal, and gone after the call."""

import pytest
import torch
from torch import Tensor

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.prompts import insert_placeholder_ids
from bdkit.models.text_encoder import SubjectTextEncoder

QUERIES, LENGTH = 4, 20
Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def encoder(model: BlipDiffusion) -> SubjectTextEncoder:
    return model.text_encoder


@pytest.fixture
def inputs(model: BlipDiffusion) -> Inputs:
    """Two prompts with the subject at different places, and vectors of the size of token embeddings."""
    ids, mask = model.tokenize(["a picture of a {} on the beach", "a red {}"], ["dog", "vase"], with_subject=True)
    vectors = 0.02 * torch.randn(2, QUERIES, 32, generator=torch.Generator().manual_seed(0))
    return ids, vectors, mask


def hooks(encoder: SubjectTextEncoder) -> int:
    return len(encoder.model.embeddings.token_embedding._forward_hooks)


@torch.no_grad()
def test_vectors_stand_at_the_places_of_the_mask(encoder: SubjectTextEncoder, inputs: Inputs) -> None:
    ids, vectors, mask = inputs
    assert mask.nonzero()[:, 1].tolist() == [5, 6, 7, 8, 3, 4, 5, 6]
    embedded = encoder.model.embeddings.token_embedding.weight[ids].clone()
    for row in range(2):
        places = [k for k in range(LENGTH) if mask[row, k]]
        for query, place in enumerate(places):
            embedded[row, place] = vectors[row, query]
    # By hand through the stock layers: position embeddings, causal attention, final norm.
    stock = encoder.model
    hidden = embedded + stock.embeddings.position_embedding.weight[:LENGTH]
    heads, width = stock.config.num_attention_heads, stock.config.hidden_size
    causal = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
    for layer in stock.encoder.layers:
        x, attention = layer.layer_norm1(hidden), layer.self_attn
        q, k, v = (
            p(x).view(2, LENGTH, heads, width // heads).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (q @ k.transpose(2, 3) / (width // heads) ** 0.5 + causal).softmax(-1)
        hidden = hidden + attention.out_proj((weights @ v).transpose(1, 2).reshape(2, LENGTH, width))
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    assert torch.allclose(encoder(ids, vectors, mask), stock.final_layer_norm(hidden), atol=1e-5)


@torch.no_grad()
def test_nothing_leaks_from_later_places_to_earlier_ones(encoder: SubjectTextEncoder, inputs: Inputs) -> None:
    ids, vectors, mask = inputs
    before = encoder(ids, vectors, mask)
    for query in range(QUERIES):
        changed = vectors.clone()
        changed[:, query] = torch.randn(32, generator=torch.Generator().manual_seed(query))
        after = encoder(ids, changed, mask)
        for row, first in ((0, 5), (1, 3)):
            assert torch.equal(after[row, : first + query], before[row, : first + query])
            assert (after[row, first + query :] - before[row, first + query :]).abs().amax(-1).min() > 1e-6
    other = ids.clone()
    other[:, 12] = (other[:, 12] + 7) % 100
    assert not mask[:, 12].any()
    after = encoder(other, vectors, mask)
    assert torch.equal(after[:, :12], before[:, :12])
    assert (after[:, 12:] - before[:, 12:]).abs().amax(-1).min() > 1e-6


@torch.no_grad()
def test_rows_without_a_subject_are_plain_text(encoder: SubjectTextEncoder, inputs: Inputs) -> None:
    ids, vectors, mask = inputs
    both, plain = encoder(ids, vectors, mask), encoder(ids)
    dropped = mask.clone()
    dropped[0] = False
    mixed = encoder(ids, vectors, dropped)
    assert torch.allclose(mixed[0], plain[0], atol=1e-6)
    assert torch.allclose(mixed[1], both[1], atol=1e-6)
    assert (both[0] - plain[0]).abs().max() > 1e-2
    assert torch.allclose(encoder(ids, vectors, torch.zeros_like(mask)), plain, atol=1e-6)


def test_gradients_reach_the_vectors_and_no_hook_is_left(encoder: SubjectTextEncoder, inputs: Inputs) -> None:
    ids, vectors, mask = inputs
    with torch.no_grad():
        plain = encoder(ids)
        encoder(ids, vectors, mask)
        assert hooks(encoder) == 0
        with pytest.raises((RuntimeError, IndexError)):
            encoder(ids, vectors[:, :-1], mask)  # a vector too few
        assert hooks(encoder) == 0
        assert torch.equal(encoder(ids), plain)
    ids, vectors, mask = inputs
    vectors = vectors.clone().requires_grad_()
    encoder(ids, vectors, mask)[0].sum().backward()
    assert (vectors.grad[0].abs().amax(-1) > 0).all()
    assert (vectors.grad[1] == 0).all()
    encoder.zero_grad()


@pytest.mark.parametrize(
    ("prefix", "suffix", "ids", "places"),
    [
        ([1, 2], [3], [90, 1, 2, 91, 91, 3, 91, 91, 91, 91], [3, 4]),
        ([], [], [90, 91, 91, 91, 91, 91, 91, 91, 91, 91], [1, 2]),
        ([1, 2], [3, 4, 5, 6], [90, 1, 2, 91, 91, 3, 4, 5, 6, 91], [3, 4]),
        ([1, 2], [3, 4, 5, 6, 7, 8], [90, 1, 2, 91, 91, 3, 4, 5, 6, 91], [3, 4]),
        ([1, 2, 3, 4, 5, 6, 7], [8], [90, 1, 2, 3, 4, 5, 6, 91, 91, 91], [7, 8]),
    ],
)
def test_the_order_of_the_ids(prefix: list[int], suffix: list[int], ids: list[int], places: list[int]) -> None:
    got, mask = insert_placeholder_ids(prefix, suffix, bos=90, eos=91, pad=91, queries=2, length=10)
    assert got == ids
    assert [k for k, inside in enumerate(mask) if inside] == places
    assert len(mask) == 10
