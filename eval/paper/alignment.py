"""How a model's subject vectors stand among the words of a prompt, measured without drawing anything (question 5)."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from bdkit.editing.attention_maps import AttentionMaps, attention_maps
from bdkit.models.blip_diffusion import BlipDiffusion
from dreambench.suites import Suite
from eval.generate.references import load_references

# What `measure_alignment` gives, and as it stands in a table's head
ALIGNMENT = {
    "word_cosine": "Cosine with the class noun",
    "word_margin": "Margin over other nouns",
    "norm_ratio": "Length in words",
    "subject_attention": "Share of attention",
}
PROMPT = "a {{}} {noun} in the snow"
STEPS = 4


@torch.no_grad()
def measure_alignment(model: BlipDiffusion, suite: Suite, photos: Path | None = None) -> pd.DataFrame:
    """A line a subject (index).

    word_cosine: mean cosine of its vectors with the token embedding of its class noun, the mean over the noun's tokens
    word_margin: that, minus the same with the other class nouns of the suite
    norm_ratio: mean length of its vectors, over the mean length of the token embeddings
    subject_attention: share of the U-Net's cross-attention that its vectors have of what they and the prompt's words
        have together, while its first reference is denoised; 4 timesteps, mean over layers and pixels
    """
    weight = model.text_encoder.model.embeddings.token_embedding.weight.float()
    nouns = list(dict.fromkeys(subject.class_noun for subject in suite.subjects))
    words = torch.stack(
        [weight[model.tokenizer(noun, add_special_tokens=False).input_ids].mean(dim=0) for noun in nouns]
    )
    lines = {}
    for subject in suite.subjects:
        references = load_references(suite, subject, photos)
        vectors = model.mean_subjects(references, subject.class_noun)
        cosines = F.cosine_similarity(vectors[0].float()[:, None], words[None], dim=-1).mean(dim=0)
        at = nouns.index(subject.class_noun)
        others = [float(cosines[k]) for k in range(len(nouns)) if k != at]
        maps = attention_maps(model, references[0], PROMPT.format(noun=subject.class_noun), vectors, steps=STEPS)
        lines[subject.name] = {
            "word_cosine": float(cosines[at]),
            "word_margin": float(cosines[at]) - float(np.mean(others)) if others else np.nan,
            "norm_ratio": float(vectors[0].float().norm(dim=-1).mean() / weight.norm(dim=-1).mean()),
            "subject_attention": subject_share(maps),
        }
    return pd.DataFrame.from_dict(lines, orient="index")


def subject_share(maps: AttentionMaps) -> float:
    """The subject vectors' attention over theirs and the words', 0 to 1."""
    masses = [(name, float(maps.of(number).mean())) for number, (name, _) in enumerate(maps.tokens)]
    subject = sum(mass for name, mass in masses if name.startswith("subject "))
    return subject / sum(mass for _, mass in masses)
