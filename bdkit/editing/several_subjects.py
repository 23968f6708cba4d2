"""Several subjects in one prompt: each one's vectors stand right before its word.

No training shows a model two subjects at once, and the 32 vectors of two share the text encoder's positions with the
words, so this carries only so far: docs/results.md has its collapse rate.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.utils.errors import InputError


@torch.no_grad()
def encode_subjects(model: BlipDiffusion, prompt: str, subject_embeddings: Sequence[Tensor]) -> Tensor:
    """Hidden states (1, L, D) of a prompt with several subjects.

    Args:
        prompt: with a ``{}`` for each subject, right before its word: ``a {} dog and a {} cat in the snow``.
        subject_embeddings: (1, Q, D) of each subject, in the prompt's order.
    """
    parts = re.split(r"\{\}", prompt)
    if len(parts) - 1 != len(subject_embeddings) or not subject_embeddings:
        raise InputError(f"the prompt {prompt!r} has {len(parts) - 1} {{}} for {len(subject_embeddings)} subjects")
    tokenizer, length = model.tokenizer, model.text_encoder.max_length
    ids, mask = [tokenizer.bos_token_id], [False]
    for number, text in enumerate(parts):
        if number:
            queries = subject_embeddings[number - 1].shape[1]
            ids += [tokenizer.eos_token_id] * queries
            mask += [True] * queries
        words = tokenizer(text.strip(), add_special_tokens=False, verbose=False).input_ids
        ids += words
        mask += [False] * len(words)
    if len(ids) + 1 > length:
        raise InputError(
            f"the prompt {prompt!r} with its subjects' vectors takes {len(ids) + 1} positions of the text encoder's "
            f"{length}; use fewer subjects or words"
        )
    ids.append(tokenizer.eos_token_id)
    ids += [tokenizer.pad_token_id] * (length - len(ids))
    mask += [False] * (length - len(mask))
    device = model.device
    vectors = torch.cat([embeddings.to(device) for embeddings in subject_embeddings], dim=1)
    return model.text_encoder(torch.tensor([ids], device=device), vectors, torch.tensor([mask], device=device))


def draw_subjects(
    model: BlipDiffusion, prompt: str, subject_embeddings: Sequence[Tensor], seeds: Sequence[int], **settings: Any
) -> Any:
    """One image a seed of several subjects together; the arguments are those of `encode_subjects`.

    Args:
        settings: of `LatentDiffusion.draw`.
    """
    hidden = encode_subjects(model, prompt, subject_embeddings)
    return model.draw(hidden.expand(len(seeds), -1, -1), list(seeds), **settings)
