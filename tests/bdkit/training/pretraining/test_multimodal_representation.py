"""Stage 1: the three masks, what each loss lets see what, and the losses against loops over single pairs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.config import TrainingConfig
from bdkit.training.pretraining import multimodal_representation as stage1
from bdkit.training.pretraining.config import MultimodalRepresentationConfig
from bdkit.training.pretraining.corpus import Corpus

QUERIES, LENGTH = 4, 8
CAPTIONS = ("a red dog", "a blue cat in the snow", "a toy on the beach", "a wooden vase")


@pytest.fixture(scope="module")
def module() -> stage1.MultimodalRepresentation:
    model = tiny_model()
    torch.manual_seed(0)
    config = model.multimodal_encoder.config
    # Two layers: in one alone no word could learn of the image, and no leak could take a detour.
    encoder = MultimodalEncoder(replace(config, qformer=config.qformer | {"num_hidden_layers": 2}))
    torch.nn.init.normal_(encoder.query_tokens)
    return stage1.MultimodalRepresentation(encoder, model.qformer_tokenizer.bos_token_id, 16).eval()


@pytest.fixture(scope="module")
def text() -> tuple[Tensor, Tensor]:
    return stage1.caption_ids(tiny_model().qformer_tokenizer, CAPTIONS, LENGTH)


@pytest.fixture(scope="module")
def image_tokens(module: stage1.MultimodalRepresentation) -> Tensor:
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return module.encoder.encode_image(pixels)


def may_see(kind: str, reader: int, seen: int) -> bool:
    """Sec. 3.1 (BLIP-2, Fig. 2); positions below QUERIES are queries, the others words."""
    reads_query, sees_query = reader < QUERIES, seen < QUERIES
    if kind == "matching":
        return True
    if kind == "contrastive":
        return reads_query == sees_query
    return sees_query or (not reads_query and seen <= reader)


@pytest.mark.parametrize(
    ("kind", "build"),
    [
        ("matching", stage1.bidirectional_mask),
        ("contrastive", stage1.unimodal_mask),
        ("generation", stage1.multimodal_causal_mask),
    ],
)
def test_masks_against_the_definition(kind: str, build, text: tuple[Tensor, Tensor]) -> None:
    _, words = text
    mask = build(QUERIES, words)
    size = QUERIES + LENGTH
    assert (mask.shape, mask.dtype) == ((4, 1, size, size), torch.bool)
    assert 0 < int(words[0].sum()) < LENGTH  # there is padding
    for b in range(4):
        for reader in range(size):
            for seen in range(size):
                padding = seen >= QUERIES and not bool(words[b, seen - QUERIES])
                assert bool(mask[b, 0, reader, seen]) == (may_see(kind, reader, seen) and not padding)


def reached(module, build, image_tokens, ids, place):
    """Which outputs of the real Q-Former move when the word at ``place`` of the second caption changes."""
    mask = build(QUERIES, torch.ones_like(ids))
    other = ids.clone()
    other[:, place] = (other[:, place] + 11) % 60
    with torch.no_grad():
        moved = module.encoder.query(image_tokens, other, mask) - module.encoder.query(image_tokens, ids, mask)
    return (moved[1].abs().amax(-1) != 0).tolist()


@pytest.mark.parametrize("place", [0, 3, LENGTH - 1])
def test_what_a_word_reaches(module: stage1.MultimodalRepresentation, image_tokens: Tensor, text, place: int) -> None:
    ids, _ = text
    assert reached(module, stage1.bidirectional_mask, image_tokens, ids, place) == [True] * (QUERIES + LENGTH)
    assert reached(module, stage1.unimodal_mask, image_tokens, ids, place) == [False] * QUERIES + [True] * LENGTH
    later = [k >= place for k in range(LENGTH)]
    assert reached(module, stage1.multimodal_causal_mask, image_tokens, ids, place) == [False] * QUERIES + later


@torch.no_grad()
def test_what_the_image_reaches(module: stage1.MultimodalRepresentation, image_tokens: Tensor, text) -> None:
    ids, words = text
    for build, sees_image in (
        (stage1.bidirectional_mask, True),
        (stage1.multimodal_causal_mask, True),
        (stage1.unimodal_mask, False),
    ):
        mask = build(QUERIES, words)
        moved = module.encoder.query(image_tokens.flip(0), ids, mask) - module.encoder.query(image_tokens, ids, mask)
        assert bool((moved[:, QUERIES:] != 0).any()) == sees_image
        assert (moved[:, :QUERIES] != 0).any()


@torch.no_grad()
def test_queries_and_words_apart_are_the_unimodal_mask(module, image_tokens, text):
    ids, words = text
    encoder = module.encoder
    together = encoder.query(image_tokens, ids, stage1.unimodal_mask(QUERIES, words))
    assert torch.allclose(encoder.query(image_tokens), together[:, :QUERIES], atol=1e-5)
    assert torch.allclose(encoder.query(None, ids, words)[:, 0], together[:, QUERIES], atol=1e-5)


@torch.no_grad()
def test_similarity_is_the_best_query_and_never_mixes(module, image_tokens, text):
    ids, words = text
    to_text, to_image = module.similarities(image_tokens, ids, words)
    spread = 0.0
    for image in range(4):
        for caption in range(4):  # each alone: nothing else of the batch can have a say
            queries = module.image_projection(module.encoder.query(image_tokens[image : image + 1]))[0].double()
            length = int(words[caption].sum())
            row = ids[caption : caption + 1, :length]
            word = module.text_projection(module.encoder.query(None, row, torch.ones_like(row)))[0, 0].double()
            cosines = [float(q @ word / (q.norm() * word.norm())) for q in queries]
            spread = max(spread, max(cosines) - sum(cosines) / QUERIES)
            assert float(to_text[image, caption]) == pytest.approx(max(cosines) / 0.07, abs=1e-3)
            assert float(to_image[caption, image]) == pytest.approx(max(cosines) / 0.07, abs=1e-3)
    assert spread > 0.05  # so the best query is not the mean


def test_contrastive_loss_against_a_loop(module: stage1.MultimodalRepresentation) -> None:
    first, second = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for logits in (first, second):
        for row in range(5):
            log = [float(x) - math.log(sum(math.exp(float(y)) for y in logits[row])) for x in logits[row]]
            total -= (0.9 * log[row] + 0.1 * sum(log) / 5) / 10
    assert float(module.itc(first, second)) == pytest.approx(total, rel=1e-5)


def test_hard_negatives_never_have_the_same_words_and_follow_the_similarity() -> None:
    ids = torch.tensor([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4]])
    same = (ids[:, None] == ids[None]).all(-1)
    to_text, to_image = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0)) * 1.5
    counts = torch.zeros(2, 5, 5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2000):
        for kind, chosen in enumerate(stage1.hard_negatives(to_text, to_image, ids, generator)):
            counts[kind, torch.arange(5), chosen] += 1
    assert counts[:, same].sum() == 0
    for kind, logits in enumerate((to_image, to_text)):  # first an image for each text, then a text for each image
        expected = (logits.softmax(1) + 1e-4).masked_fill(same, 0)
        assert torch.allclose(counts[kind] / 2000, expected / expected.sum(1, keepdim=True), atol=0.05)
    stage1.hard_negatives(to_text, to_image, torch.ones_like(ids), generator)  # one caption only: still a draw


@torch.no_grad()
def test_matching_loss_against_single_pairs(module, image_tokens, text):
    ids, words = text
    negatives = torch.tensor([1, 2, 3, 0]), torch.tensor([2, 3, 0, 1])
    loss, accuracy = module.itm(image_tokens, ids, words, negatives)
    pairs = [(k, k, 1) for k in range(4)]
    pairs += [(int(negatives[0][k]), k, 0) for k in range(4)] + [(k, int(negatives[1][k]), 0) for k in range(4)]
    total, right = 0.0, 0
    for image, caption, label in pairs:
        length = int(words[caption].sum())
        row = ids[caption : caption + 1, :length]
        hidden = module.encoder.query(image_tokens[image : image + 1], row, torch.ones_like(row))
        logits = module.matching_head(hidden[0, :QUERIES]).mean(0)
        total -= float(logits.log_softmax(0)[label]) / len(pairs)
        right += int(logits.argmax()) == label
    assert float(loss) == pytest.approx(total, rel=1e-4)
    assert float(accuracy) == pytest.approx(right / len(pairs))


@torch.no_grad()
def test_generation_loss_word_by_word(module: stage1.MultimodalRepresentation, image_tokens: Tensor, text) -> None:
    ids, words = text
    dec, vocabulary = module.dec_token_id, module.encoder.qformer.get_input_embeddings().weight
    losses = []
    for row in range(4):
        caption = ids[row, : int(words[row].sum())].tolist()
        for place in range(1, len(caption)):  # predict caption[place] from [DEC] and the words before it, no more
            seen = torch.tensor([[dec, *caption[1:place]]])
            mask = stage1.multimodal_causal_mask(QUERIES, torch.ones_like(seen))
            last = module.encoder.query(image_tokens[row : row + 1], seen, mask)[0, -1]
            log = (vocabulary @ module.word_transform(last) + module.word_bias).log_softmax(0)
            losses.append(-0.9 * float(log[caption[place]]) - 0.1 * float(log.mean()))
    assert float(module.itg(image_tokens, ids, words)) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    trash = ids.masked_fill(words == 0, 17)
    assert float(module.itg(image_tokens, trash, words)) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@torch.no_grad()
def test_each_word_is_what_itg_predicts_from_all_before_it(module, image_tokens):
    written = module.write_words(image_tokens, end_token_id=-1, length=6)
    assert written.shape == (4, 6)
    ids = torch.cat([torch.full((4, 1), module.dec_token_id), written[:, :-1]], dim=1)
    mask = stage1.multimodal_causal_mask(QUERIES, torch.ones_like(ids))
    hidden = module.encoder.query(image_tokens, ids, mask)[:, QUERIES:]
    words = module.encoder.qformer.get_input_embeddings().weight
    at_once = (module.word_transform(hidden) @ words.T + module.word_bias).argmax(-1)
    assert at_once.tolist() == written.tolist()


def test_the_end_ends_a_caption(module: stage1.MultimodalRepresentation, image_tokens: Tensor) -> None:
    tokens = image_tokens[:1]
    free = module.write_words(tokens, end_token_id=-1, length=6)[0].tolist()
    end = free[3]
    stopped = module.write_words(tokens, end_token_id=end, length=6)[0].tolist()
    assert stopped == free[: free.index(end) + 1]
    # a row that has ended is filled up while another goes on
    both = module.write_words(tokens.repeat(2, 1, 1) * torch.tensor([1.0, -1.0]).view(2, 1, 1), end_token_id=end)
    first = both[0].tolist()
    assert set(first[first.index(end) :]) == {end}


def test_training_moves_the_qformer_alone() -> None:
    model, rng = tiny_model(), np.random.default_rng(0)
    corpus = Corpus(
        images=rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), alphas=np.zeros((8, 32, 32), dtype=np.uint8),
        templates=["a {}"] * 8, details=[*CAPTIONS, *(f"{c} on the grass" for c in CAPTIONS)], class_nouns=["dog"] * 8,
    )  # fmt: skip
    before = {k: v.clone() for k, v in model.multimodal_encoder.state_dict().items()}
    config = TrainingConfig(steps=30, batch_size=8, learning_rate=3e-3)
    encoder, tokenizer = model.multimodal_encoder, model.qformer_tokenizer
    pairs = stage1.pair_batches(corpus, encoder, tokenizer, config, MultimodalRepresentationConfig(text_length=LENGTH))
    _, history = stage1.train_multimodal_representation(
        encoder, tokenizer, pairs, config, None, progress=False, device="cpu"
    )
    moved = {k.split(".")[0] for k, v in model.multimodal_encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"qformer", "query_tokens"}
    assert history[-1]["itg"] < 0.8 * history[0]["itg"]
    assert history[-1]["loss"] == pytest.approx(sum(history[-1][k] for k in ("itc", "itm", "itg")), rel=1e-4)
    assert F.cosine_similarity(before["query_tokens"], model.multimodal_encoder.query_tokens, -1).min() < 1
