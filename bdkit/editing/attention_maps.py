"""Seeing the representation: where in the image each subject vector and each word is attended to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DDIMScheduler
from PIL import Image, ImageDraw
from torch import Tensor

from bdkit.editing.attention_control import AttentionStore, attention_control, contiguous_weights, level_size
from bdkit.editing.prompt_tokens import PromptTokens, encode_prompts, positions_within
from bdkit.losses import draw_noise
from bdkit.models.latent_diffusion import LatentDiffusion, encode_images, latent_factor
from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.utils.errors import InputError
from bdkit.utils.rgb import as_rgb

Floats = npt.NDArray[np.floating]

# A map is local where it is not nearly uniform and tells the mask's inside from its outside this often, or its reverse
LOCAL_ENTROPY, LOCAL_AUC = 0.98, 0.7
CELL, LABEL = 64, 14  # pixels of a map in the figure, and of the line of text over a column


class AttentionRecorder(AttentionStore):
    """Keeps the map of every U-Net call and stored layer apart; changes nothing. For one prompt."""

    def __init__(self) -> None:
        super().__init__([0])
        self.recorded: list[list[Tensor]] = []  # by call and layer, (queries, L)

    def store(self, maps: Tensor) -> None:
        while len(self.recorded) <= self.call:
            self.recorded.append([])
        self.recorded[self.call].append(maps[-1].float().mean(dim=0).cpu())


@dataclass(frozen=True, kw_only=True)
class AttentionMaps:
    """Cross-attention of one image.

    Args:
        maps: (steps, layers, h, w, L) float32, mean over heads; over the L positions they add up to 1.
        timesteps: of the steps, the noisiest first.
        layers: names of the U-Net's layers.
        tokens: label and positions of each subject vector ("subject 1" ...) and of each word.
    """

    maps: Tensor
    timesteps: tuple[int, ...]
    layers: tuple[str, ...]
    tokens: tuple[tuple[str, tuple[int, ...]], ...]

    def of(self, number: int, step: int | None = None, layer: int | None = None) -> Floats:
        """One token's map (h, w), the mean over steps and layers unless one is named."""
        chosen = self.maps[:, :, :, :, list(self.tokens[number][1])].sum(dim=-1)
        chosen = chosen if step is None else chosen[step : step + 1]
        chosen = chosen if layer is None else chosen[:, layer : layer + 1]
        return chosen.mean(dim=(0, 1)).numpy()


@torch.no_grad()
def attention_maps(
    model: LatentDiffusion,
    image: Image.Image,
    prompt: str,
    subject_embeddings: Tensor | None = None,
    *,
    steps: int = 10,
    seed: int = 0,
) -> AttentionMaps:
    """The attention with which the U-Net denoises an image: noise is added to it, at evenly spaced timesteps.

    Args:
        image: photo or generated image; it is resized to the model's resolution.
        prompt: what it shows, such as "a {} dog in the snow": the subject's vectors stand in place of ``{}``.
        subject_embeddings: (1, Q, D).
        seed: of the noise.
    """
    most = model.scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise InputError(f"{steps} timesteps; use 1 to {most}")
    (tokens,), hidden = encode_prompts(model, [prompt], subject_embeddings)
    side = model.resolution
    pixels = pixels_from_arrays(np.array(as_rgb(image).resize((side, side), Image.Resampling.BICUBIC))[None])
    clean = encode_images(model.vae, pixels.to(model.device, model.vae.dtype), mean=True).float()
    noise = draw_noise(clean, torch.Generator().manual_seed(seed))
    scheduler: Any = DDIMScheduler.from_config(model.scheduler.config)
    timesteps = [int((most - 1) * (2 * (steps - number) - 1) / (2 * steps)) for number in range(steps)]
    recorder = AttentionRecorder()
    with contiguous_weights(model.unet), attention_control(model.unet, recorder):
        layers = tuple(name.removesuffix(".processor") for name in recorder.layers)
        for call, timestep in enumerate(timesteps):
            recorder.call = call
            at = torch.tensor([timestep], device=model.device)
            model.unet(scheduler.add_noise(clean, noise, at).to(hidden.dtype), at, hidden)
    stacked = torch.stack([torch.stack(maps) for maps in recorder.recorded])
    latent_side = side // latent_factor(model.vae)
    size = level_size(latent_side, latent_side, stacked.shape[2])
    return AttentionMaps(
        maps=stacked.unflatten(2, size), timesteps=tuple(timesteps), layers=layers, tokens=tuple(_named(tokens))
    )


def _named(prompt: PromptTokens) -> list[tuple[str, tuple[int, ...]]]:
    vectors = [place for place in range(prompt.length) if prompt.subject_mask[place]]
    named: list[tuple[str, tuple[int, ...]]] = [
        (f"subject {number}", (place,)) for number, place in enumerate(vectors, start=1)
    ]
    begin = 0
    for word in prompt.text.split():
        begin = prompt.text.index(word, begin)
        positions = positions_within(prompt, begin, begin + len(word))
        begin += len(word)
        if positions:  # text that was cut has none
            named.append((word, tuple(positions)))
    return named


@dataclass(frozen=True, kw_only=True)
class MapStatistics:
    """How local a map is, and where.

    Args:
        entropy: of the map as a distribution over positions, divided by that of a uniform one: 1 is everywhere alike.
        weight: the token's share of all attention.
        inside: share of the token's attention that falls into the mask; None without a mask, as the others.
        lift: that share by the mask's share of the image: 1 is no preference.
        auc: chance that a position inside the mask has more than one outside; .5 is no preference.
        kind: "subject" or "background" (entropy below .98; auc at least .7, or at most .3), else "global".
    """

    entropy: float
    weight: float
    inside: float | None = None
    lift: float | None = None
    auc: float | None = None
    kind: str | None = None


def map_statistics(attention: Floats, mask: Floats | None = None) -> MapStatistics:
    """The statistics of a map (h, w).

    Args:
        mask: (h, w), share of each position's area that the subject covers, 0..1; for the area under the curve it
            counts as covered from one half.
    """
    values = np.asarray(attention, np.float64).ravel()
    shares = values / values.sum()
    entropy = float(-(shares * np.log(np.maximum(shares, 1e-300))).sum() / np.log(len(shares)))
    weight = float(values.mean())
    if mask is None:
        return MapStatistics(entropy=entropy, weight=weight)
    cover = np.asarray(mask, np.float64).ravel()
    covered = cover >= 0.5
    if cover.shape != values.shape or not 0 < covered.sum() < len(covered):
        raise InputError("the mask covers no or every position of the map; give one of the subject in this image")
    inside = float((shares * cover).sum())
    above = values[covered][:, None] - values[~covered][None]
    auc = float((above > 0).mean() + 0.5 * (above == 0).mean())
    kind = "global"
    if entropy < LOCAL_ENTROPY and abs(auc - 0.5) >= LOCAL_AUC - 0.5:
        kind = "subject" if auc > 0.5 else "background"
    return MapStatistics(
        entropy=entropy, weight=weight, inside=inside, lift=inside / float(cover.mean()), auc=auc, kind=kind
    )


def table(found: AttentionMaps, mask: Image.Image | None = None) -> list[dict[str, Any]]:
    """A row a token over all steps and layers ("all"), by layer and by step: token, layer, timestep and statistics.

    Args:
        mask: of the subject, white where it is.
    """
    height, width = found.maps.shape[2:4]
    cover = None
    if mask is not None:
        cover = np.asarray(mask.convert("L").resize((width, height), Image.Resampling.BOX), np.float64) / 255
    rows = []
    for number, (label, _) in enumerate(found.tokens):
        views: list[tuple[int | None, int | None]] = [(None, None)]
        views += [(None, layer) for layer in range(len(found.layers))]
        views += [(step, None) for step in range(len(found.timesteps))]
        for step, layer in views:
            statistics = map_statistics(found.of(number, step, layer), cover)
            where = {
                "token": label,
                "layer": "all" if layer is None else found.layers[layer],
                "timestep": "all" if step is None else found.timesteps[step],
            }
            rows.append({**where, **vars(statistics)})
    return rows


def figure(found: AttentionMaps, image: Image.Image, mask: Image.Image | None = None) -> Image.Image:
    """Each token's map over the image: a column a token; a row for all, for each layer and each third of the steps.

    Every cell is scaled to its own lowest and highest value. The first column shows the image and the mask.
    """
    steps, layers = list(range(len(found.timesteps))), list(range(len(found.layers)))
    rows: list[tuple[str, list[int], list[int]]] = [("all", steps, layers)]
    for layer in layers:
        block, number, _, within = found.layers[layer].split(".")[:4]
        rows.append((f"{block.split('_')[0]} {number}.{within}", steps, [layer]))
    for part in np.array_split(steps, min(3, len(steps))):
        chosen = [int(step) for step in part]
        rows.append((f"{found.timesteps[chosen[0]]}-{found.timesteps[chosen[-1]]}", chosen, layers))
    columns = len(found.tokens) + 2  # row labels; image and mask
    whole = Image.new("RGB", (columns * CELL, LABEL + len(rows) * CELL), "white")
    draw = ImageDraw.Draw(whole)
    for line, (label, _, _) in enumerate(rows):
        draw.text((2, LABEL + line * CELL + CELL // 2 - 6), label, fill="black")
    whole.paste(as_rgb(image).resize((CELL, CELL), Image.Resampling.BICUBIC), (CELL, LABEL))
    if mask is not None:
        whole.paste(as_rgb(mask).resize((CELL, CELL)), (CELL, LABEL + CELL))
    for column, (label, positions) in enumerate(found.tokens, start=2):
        draw.text((column * CELL + 2, 1), label, fill="black")
        maps = found.maps[..., list(positions)].sum(dim=-1)
        for line, (_, row_steps, row_layers) in enumerate(rows):
            cell = overlay(maps[row_steps][:, row_layers].mean(dim=(0, 1)).numpy(), image)
            whole.paste(cell, (column * CELL, LABEL + line * CELL))
    return whole


def overlay(attention: Floats, image: Image.Image, side: int = CELL) -> Image.Image:
    """A map (h, w), scaled to its own lowest and highest value, in orange over the grey image; side x side pixels."""
    scaled = (attention - attention.min()) / max(float(attention.max() - attention.min()), 1e-12)
    cell = Image.fromarray((scaled * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    heat = np.asarray(cell, np.float64)[..., None] / 255
    shown = as_rgb(image).resize((side, side), Image.Resampling.BICUBIC)
    grey = np.asarray(shown.convert("L"), np.float64)[..., None]
    colours = heat * np.array([255.0, 80.0, 0.0]) + (1 - heat) * 0.6 * grey
    return Image.fromarray(colours.astype(np.uint8))


def mean_by_token(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows over all steps and layers alone."""
    return [row for row in rows if row["layer"] == row["timestep"] == "all"]
