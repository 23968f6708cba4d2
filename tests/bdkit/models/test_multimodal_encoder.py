"""The multimodal encoder: Q-Former over image and words, projection."""

import pytest
import torch
from torch import Tensor

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.multimodal_encoder import MultimodalEncoder, SubjectProjection

QUERIES = 4


@pytest.fixture(scope="module")
def encoder(model: BlipDiffusion) -> MultimodalEncoder:
    return model.multimodal_encoder


def pixels(rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def words(model: BlipDiffusion, *nouns: str) -> tuple[Tensor, Tensor]:
    tokens = model.qformer_tokenizer(list(nouns), padding=True, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


@torch.no_grad()
def test_projection_against_the_published_formula() -> None:
    torch.manual_seed(0)
    plain, scaled = SubjectProjection(8, 12, 0.1, None).eval(), SubjectProjection(8, 12, 0.1, 0.02).eval()
    scaled.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 8)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-12).sqrt()
    hidden = normed @ plain.dense1.weight.T + plain.dense1.bias
    hidden = hidden / (1 + torch.exp(-1.702 * hidden))
    expected = x + hidden @ plain.dense2.weight.T + plain.dense2.bias
    assert torch.allclose(plain(x), expected, atol=1e-5)
    assert plain.layer_norm.eps == 1e-12
    out = scaled(x)
    assert out.std(-1, unbiased=False) == pytest.approx(0.02, rel=0.01)
    assert torch.allclose(out, 0.02 * torch.nn.functional.layer_norm(expected, (8,)), atol=1e-6)
    assert not torch.allclose(plain.train()(x), expected)  # the dropout is there
    plain.eval()


@torch.no_grad()
def test_subject_vectors_depend_on_image_and_word(model: BlipDiffusion, encoder: MultimodalEncoder) -> None:
    images, (ids, mask) = pixels(2), words(model, "dog", "dog")
    vectors = encoder(images, ids, mask)
    assert vectors.shape == (2, QUERIES, 32)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-4
    other = encoder(images, *words(model, "cat", "cat"))
    assert (vectors - other).abs().amax((1, 2)).min() > 1e-4
    assert (vectors[:, 0] - vectors[:, 1]).abs().max() > 1e-4  # each query says something else


@torch.no_grad()
def test_padding_and_neighbours_change_nothing(model: BlipDiffusion, encoder: MultimodalEncoder) -> None:
    images = pixels(2)
    alone = encoder(images[:1], *words(model, "dog"))
    ids, mask = words(model, "dog", "toy red vase house")
    assert mask[0].sum() < mask[1].sum()
    padded = encoder(images, ids, mask)
    assert torch.allclose(padded[:1], alone, atol=1e-6)
    unmasked = encoder(images, ids, torch.ones_like(mask))
    assert not torch.allclose(unmasked[:1], alone, atol=1e-5)


@torch.no_grad()
def test_image_tokens_are_normed_over_the_whole_sequence(encoder: MultimodalEncoder) -> None:
    tokens = encoder.encode_image(pixels(2))
    assert tokens.shape == (2, 1 + 16, 32)
    hidden = encoder.vision_model(pixel_values=pixels(2)).last_hidden_state
    norm = encoder.vision_model.post_layernorm
    expected = torch.nn.functional.layer_norm(hidden, (32,), norm.weight, norm.bias, norm.eps)
    assert torch.allclose(tokens, expected, atol=1e-5)
    assert all(layer.has_cross_attention for layer in encoder.qformer.encoder.layer)
    assert encoder.qformer.config.cross_attention_frequency == 1


@torch.no_grad()
def test_query_without_image_or_without_words(model: BlipDiffusion, encoder: MultimodalEncoder) -> None:
    tokens, (ids, mask) = encoder.encode_image(pixels(2)), words(model, "dog", "cat")
    assert encoder.query(tokens).shape == (2, QUERIES, 32)
    text = encoder.query(None, ids, mask)
    assert text.shape == (2, ids.shape[1], 32)
    assert encoder.query(tokens, ids, mask).shape == (2, QUERIES + ids.shape[1], 32)
    assert (encoder.query(tokens)[0] - encoder.query(tokens.flip(0))[0]).abs().max() > 1e-4
