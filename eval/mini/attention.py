"""Which of the 16 subject vectors are local, and which global? Their attention in held-out subjects' own images.

python -m eval.mini.attention --out results/editing/attention.csv

Each subject is drawn by the mini world in a few contexts, so that its true mask is known; the statistics are those of
`bdkit attention`, over all steps and layers.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from bdkit.checkpoints.load import load_model
from bdkit.editing.attention_maps import attention_maps, mean_by_token, table
from bdkit.models.blip_diffusion import BlipDiffusion, require_blip_diffusion
from bdkit.utils.env import commit, device_name, pick_device
from bdkit.utils.io import write_text
from bdkit.utils.progress import progress_bar
from bdkit.utils.seeds import derive_seed
from dreambench.registry import load_suite
from eval.generate.references import draw_references, render_prompt
from eval.report.statistics import interval

SUITE = "mini@0"
PROMPTS = ("a {} {} in the snow", "a {} {} on the beach", "a {} {} in the jungle")
STEPS = 10


def measure(model: BlipDiffusion, *, subjects: int = 20, seed: int = 0) -> pd.DataFrame:
    """A row a subject, its prompt, and each of its vectors and its class word; the columns are `MapStatistics`'."""
    suite, rows = load_suite(SUITE), []
    for number, subject in enumerate(progress_bar(suite.subjects[:subjects], desc="attention", unit=" subjects")):
        noun, template = subject.class_noun, PROMPTS[number % len(PROMPTS)]
        drawn = render_prompt(suite, subject, template, derive_seed("attention", seed, subject.name))
        vectors = model.mean_subjects(draw_references(suite, subject), noun)
        prompt = template.replace("{} {}", f"{{}} {noun}")
        found = attention_maps(model, Image.fromarray(drawn.image), prompt, vectors, steps=STEPS, seed=seed)
        for row in mean_by_token(table(found, Image.fromarray(drawn.alpha))):
            if row["token"].startswith("subject ") or row["token"] == noun.split()[-1]:
                token = row["token"] if row["token"].startswith("subject ") else "class word"
                rows.append({"subject": subject.name, **row, "token": token})
    return pd.DataFrame(rows).drop(columns=["layer", "timestep"])


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a token: means over subjects, the interval of the area under the curve, and how often it is of each kind.

    kind: "subject" or "background" where most subjects' maps are, else "global".
    """
    rows = []
    for token, part in frame.groupby("token", sort=False):
        shares = {kind: float((part.kind == kind).mean()) for kind in ("subject", "background", "global")}
        low, high = interval(part.auc.to_numpy())
        rows.append(
            {
                "token": token,
                **{name: part[name].mean() for name in ("entropy", "weight", "inside", "lift", "auc")},
                "auc_low": low,
                "auc_high": high,
                **shares,
                "kind": max(shares, key=lambda kind: shares[kind]) if max(shares.values()) > 0.5 else "global",
                "n": len(part),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Measures the shipped model and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/editing/attention.csv"))
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    model = require_blip_diffusion(load_model("mini"))
    model.to(pick_device())
    frame = summarise(measure(model, subjects=given.subjects, seed=given.seed))
    frame = frame.assign(steps=STEPS, seed=given.seed, device=device_name(), commit=commit())
    write_text(frame.to_csv(index=False, float_format="%.4f"), given.out)
    vectors = frame[frame.token != "class word"]
    print(frame[["token", "entropy", "inside", "lift", "auc", "kind"]].round(3).to_string(index=False))
    print(f"{np.sum(vectors.kind != 'global')} of {len(vectors)} vectors are local; {given.subjects} subjects")


if __name__ == "__main__":
    main()
