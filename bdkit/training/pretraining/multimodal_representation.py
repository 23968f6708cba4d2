"""Stage 1, multimodal representation learning (Sec. 3.1): ITC, ITM and ITG on a frozen image encoder, as in BLIP-2."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import gather, reduce
from torch import Tensor, nn
from transformers import BertTokenizer

from bdkit.losses import gradient_checkpointing
from bdkit.models.multimodal_encoder import MultimodalEncoder
from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.training.config import TrainingConfig
from bdkit.training.data import Batches, FunctionBatches, epoch_indices
from bdkit.training.loop import TrainingLoop
from bdkit.training.pretraining.config import MultimodalRepresentationConfig
from bdkit.training.pretraining.corpus import Corpus
from bdkit.training.pretraining.image_encoder import flip_half
from bdkit.training.tracking import Tracking
from bdkit.utils.env import rank, shared_draw, world_size

# The three attention masks over [queries, text], True = may attend; text (B, T) is the padding mask.


def bidirectional_mask(queries: int, text: Tensor) -> Tensor:
    """ITM: everything sees everything but padding. (B, 1, Q + T, Q + T) bool."""
    seen = torch.cat([text.new_ones(text.shape[0], queries), text], dim=1).bool()
    return seen[:, None, None, :].expand(-1, 1, seen.shape[1], -1)


def unimodal_mask(queries: int, text: Tensor) -> Tensor:
    """ITC: queries see queries, words see words. (B, 1, Q + T, Q + T) bool."""
    mask = bidirectional_mask(queries, text).clone()
    mask[:, :, :queries, queries:] = False
    mask[:, :, queries:, :queries] = False
    return mask


def multimodal_causal_mask(queries: int, text: Tensor) -> Tensor:
    """ITG: queries see queries only; a word sees the queries and the words up to itself. (B, 1, Q + T, Q + T) bool."""
    mask = bidirectional_mask(queries, text).clone()
    mask[:, :, :queries, queries:] = False
    size = text.shape[1]
    mask[:, :, queries:, queries:] &= torch.ones(size, size, dtype=torch.bool, device=text.device).tril()
    return mask


class MultimodalRepresentation(nn.Module):
    """The heads of stage 1 on a `MultimodalEncoder`; thrown away afterwards."""

    def __init__(self, encoder: MultimodalEncoder, dec_token_id: int, projection_size: int = 128) -> None:
        super().__init__()
        width = encoder.qformer.config.hidden_size
        self.encoder, self.dec_token_id = encoder, dec_token_id
        self.image_projection = nn.Linear(width, projection_size)
        self.text_projection = nn.Linear(width, projection_size)
        self.matching_head = nn.Linear(width, 2)
        self.word_transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.word_bias = nn.Parameter(torch.zeros(encoder.qformer.config.vocab_size))
        self.temperature = nn.Parameter(torch.tensor(0.07))

    def features(self, image_tokens: Tensor, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Of images (B, Q, D) and of texts (B, D), of length 1; an image's best query decides how near a text is."""
        # Running queries and words apart is the unimodal mask: neither sees the other.
        queries = F.normalize(self.image_projection(self.encoder.query(image_tokens)), dim=-1)
        words = F.normalize(self.text_projection(self.encoder.query(None, input_ids, mask)[:, 0]), dim=-1)
        return queries, words

    def similarities(self, image_tokens: Tensor, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image-to-text and text-to-image logits (B, world B); the maximum over queries is the similarity.

        The gradient flows to the images and texts of all processes (Sec. 3.1: negatives from the global batch).
        """
        queries, words = self.features(image_tokens, input_ids, mask)
        all_queries, all_words = gather_with_gradient(queries), gather_with_gradient(words)
        temperature = self.temperature.clamp(0.01, 0.5)
        image_to_text = torch.einsum("bqd,wd->bwq", queries, all_words).amax(-1) / temperature
        text_to_image = torch.einsum("bd,wqd->bwq", words, all_queries).amax(-1) / temperature
        return image_to_text, text_to_image

    def itc(self, image_to_text: Tensor, text_to_image: Tensor) -> Tensor:
        """Image-text contrastive loss; negatives from the global batch."""
        size = len(image_to_text)
        labels = torch.arange(size, device=image_to_text.device) + size * rank()
        losses = [F.cross_entropy(x.float(), labels, label_smoothing=0.1) for x in (image_to_text, text_to_image)]
        return (losses[0] + losses[1]) / 2

    def matching_logits(self, image_tokens: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        """(B, 2) logits [no match, match], averaged over the queries."""
        queries = self.encoder.config.num_query_tokens
        hidden = self.encoder.query(image_tokens, input_ids, bidirectional_mask(queries, mask))
        return self.matching_head(hidden[:, :queries]).mean(dim=1)

    def itm(
        self, image_tokens: Tensor, ids: Tensor, mask: Tensor, negatives: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Matching loss and accuracy: true pairs, each text with a hard image, each image with a hard text.

        Args:
            negatives: for each text the number of an image and for each image that of a text, of the global batch.
        """
        hard_image, hard_text = negatives
        size = len(ids)
        all_tokens, all_ids, all_masks = (x if world_size() == 1 else gather(x) for x in (image_tokens, ids, mask))
        logits = self.matching_logits(
            torch.cat([image_tokens, all_tokens[hard_image], image_tokens]),
            torch.cat([ids, ids, all_ids[hard_text]]),
            torch.cat([mask, mask, all_masks[hard_text]]),
        ).float()
        labels = torch.cat([ids.new_ones(size), ids.new_zeros(2 * size)])
        return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()

    def itg(self, image_tokens: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Generation loss: each word from the queries and the words before it; [DEC] takes the place of [CLS]."""
        queries = self.encoder.config.num_query_tokens
        decoder_ids = input_ids.clone()
        decoder_ids[:, 0] = self.dec_token_id
        hidden = self.encoder.query(image_tokens, decoder_ids, multimodal_causal_mask(queries, mask))[:, queries:]
        words = self.encoder.qformer.get_input_embeddings().weight
        logits = self.word_transform(hidden[:, :-1]) @ words.T + self.word_bias
        targets = input_ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), label_smoothing=0.1)
        words_here = (targets != -100).sum().float()
        return loss * (words_here / reduce(words_here, "mean"))  # the mean over the words of all processes

    @torch.no_grad()
    def write_words(self, image_tokens: Tensor, end_token_id: int, length: int = 24) -> Tensor:
        """Captions as ITG learned to write them, greedily: word ids (B, n), n <= ``length``, ended by ``end_token_id``.

        After an image's end its row is filled up with that id.
        """
        queries = self.encoder.config.num_query_tokens
        ids = torch.full((len(image_tokens), 1), self.dec_token_id, device=image_tokens.device)
        words = self.encoder.qformer.get_input_embeddings().weight
        for _ in range(length):
            mask = multimodal_causal_mask(queries, torch.ones_like(ids))
            last = self.encoder.query(image_tokens, ids, mask)[:, -1]
            chosen = (self.word_transform(last) @ words.T + self.word_bias).argmax(1)
            chosen = chosen.masked_fill((ids == end_token_id).any(1), end_token_id)
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            if bool((chosen == end_token_id).all()):
                break
        return ids[:, 1:]

    def forward(
        self, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, ids, mask = batch
        with torch.no_grad():
            image_tokens = self.encoder.encode_image(pixels)
        image_to_text, text_to_image = self.similarities(image_tokens, ids, mask)
        negatives = hard_negatives(image_to_text, text_to_image, ids, generator)
        itc = self.itc(image_to_text, text_to_image)
        itm, accuracy = self.itm(image_tokens, ids, mask, negatives)
        itg = self.itg(image_tokens, ids, mask)
        parts = {"itc": itc, "itm": itm, "itg": itg, "itm_acc": accuracy}
        return itc + itm + itg, {name: value.detach() for name, value in parts.items()}


@torch.no_grad()
def hard_negatives(
    image_to_text: Tensor, text_to_image: Tensor, ids: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """For each text an image, for each image a text, drawn by ITC similarity; never a pair with the same words.

    Both come from the global batch. Returns two vectors (B,) of numbers in it.
    """
    size, total = image_to_text.shape
    everyones = ids if world_size() == 1 else gather(ids)
    same = (ids[:, None] == everyones[None]).all(-1)
    chosen = []
    for logits in (text_to_image, image_to_text):
        weights = logits.float().softmax(dim=1) + 1e-4
        weights = weights.masked_fill(same, 0.0)
        weights[weights.sum(1) == 0] = 1.0  # a batch of one caption only
        # the largest ratio to exponential noise is a draw by the weights
        noise = shared_draw(lambda rows: torch.empty(rows, total).exponential_(generator=generator), size)
        chosen.append((weights.cpu() / noise).argmax(1).to(ids.device))
    return chosen[0], chosen[1]


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """All processes' rows (world B, ...); the gradient of each flows back to the process that it came from."""
    return tensor if world_size() == 1 else _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        gathered: Tensor = gather(rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        size = len(gradient) // world_size()
        total: Tensor = reduce(gradient.contiguous(), "sum")
        return total[rank() * size : (rank() + 1) * size]


def caption_ids(tokenizer: BertTokenizer, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Word ids and padding mask, (B, length)."""
    tokens = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


def train_multimodal_representation(
    encoder: MultimodalEncoder,
    tokenizer: BertTokenizer,
    batches: Batches,
    training: TrainingConfig,
    out: Path | None,
    *,
    projection_size: int = 128,
    watch: Callable[[MultimodalRepresentation], Tracking] | None = None,
    **loop: Any,
) -> tuple[MultimodalRepresentation, list[dict[str, float]]]:
    """Trains the Q-Former with all three losses; the image encoder stays frozen.

    Args:
        batches: of pixels (B, 3, S, S) with word ids and padding mask (B, T): `pair_batches` of a corpus in memory, or
            those of shards.
        watch: of the module in training, where its numbers and samples go.
    """
    torch.manual_seed(training.seed)
    module = MultimodalRepresentation(encoder, tokenizer.bos_token_id, projection_size)
    encoder.vision_model.requires_grad_(False)
    encoder.projection.requires_grad_(False)
    encoder.qformer.requires_grad_(True)
    encoder.query_tokens.requires_grad_(True)
    if watch is not None:
        loop["tracking"] = watch(module)
    with gradient_checkpointing([encoder.qformer], on=training.gradient_checkpointing):
        history = TrainingLoop(module, batches, training, out=out, name="stage 1", **loop).run()
    return module, history


def pair_batches(
    corpus: Corpus,
    encoder: MultimodalEncoder,
    tokenizer: BertTokenizer,
    training: TrainingConfig,
    config: MultimodalRepresentationConfig | None = None,
) -> FunctionBatches:
    """The batches of a corpus in memory. Paper: 129M web pairs; here: its images with their detailed captions."""
    length = (config or MultimodalRepresentationConfig()).text_length
    indices = epoch_indices(len(corpus), training.batch_size, training.seed)
    device = encoder.query_tokens.device

    def batch(index: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = indices(index)
        ids, mask = caption_ids(tokenizer, [corpus.details[i] for i in chosen], length)
        pixels = flip_half(pixels_from_arrays(corpus.images[chosen], clip=True), generator)
        return pixels.to(device), ids.to(device), mask.to(device)

    return FunctionBatches(batch, training.seed)
