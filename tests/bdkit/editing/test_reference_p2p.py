"""Parity with the original codes: google/prompt-to-prompt, PnPInversion and LAVIS on tiny random checkpoints.

The reference is the folder p2p/ of BDKIT_REFERENCE_DIR; its DETAILS.md tells origin, keys and limits. Faults of the
originals are asked for by ``original=True`` where a case holds them, and only there.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler
from PIL import Image
from torch import Tensor

from bdkit.checkpoints.files import LoadOptions
from bdkit.checkpoints.load import load_base
from bdkit.editing import Inversion, LocalBlend, invert, prompt_to_prompt
from bdkit.editing.prompt_tokens import encode_prompts
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import decode_latents
from bdkit.models.preprocessing import to_images
from bdkit.sampling import guided_noise

FOLDER = Path(os.environ.get("BDKIT_REFERENCE_DIR", "-")) / "p2p"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="BDKIT_REFERENCE_DIR has no p2p/"),
]

STEPS = 8
MAPS, LATENTS, LATENTS_NULL, LEVELS = 1e-4, 2e-3, 1e-2, 2
# prompts whose swapped words have another number of tokens: Replace misaligns what follows
MISALIGNED = {
    *("replace", "replace_self1024", "replace_words", "swap_back", "replace_three", "replace_blend", "food_blend"),
    *("replace_blend_nt", "replace_blend_sub", "pndm_replace"),
}


def cases(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text())["cases"] if path.is_file() else {}


class Recorded:
    """The arrays of one file, read when asked for."""

    def __init__(self, name: str) -> None:
        self.file = np.load(FOLDER / f"{name}.npz")

    def __getitem__(self, key: str) -> Any:
        return self.file[key]

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.file[key])

    def __contains__(self, key: str) -> bool:
        return key in self.file


@pytest.fixture(scope="module")
def google() -> Recorded:
    return Recorded("google")


@pytest.fixture(scope="module")
def model() -> Any:
    return load_base(FOLDER / "pipe")


@pytest.fixture(scope="module")
def real() -> Image.Image:
    return Image.open(FOLDER / "inputs/real.png")


def settings_of(case: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `prompt_to_prompt` for a case."""
    controller = case["controller"]
    mode = "replace" if "Replace" in controller else "refine" if "Refine" in controller else None
    settings: dict[str, Any] = {"mode": mode}
    if "cross_replace_steps" in case:
        settings["cross_replace_steps"] = case["cross_replace_steps"]
        settings["self_replace_steps"] = case["self_replace_steps"]
        settings["self_max_queries"] = case["self_max_pixels"]
    if "word" in case:
        settings["equalizer"] = {case["word"]: case["value"]}
    if "equalizer" in case:
        settings["equalizer"] = dict(zip(case["equalizer"]["words"], case["equalizer"]["values"], strict=True))
    if "blend_words" in case:
        threshold = case["blend_threshold"]
        settings["local_blend"] = LocalBlend(
            words=case["blend_words"],
            threshold=tuple(threshold) if isinstance(threshold, list) else threshold,
            start=case.get("start_blend", 0.0),
            subtract=case.get("substruct_words"),
        )
    return settings


def check(
    model: Any, recorded: Recorded, name: str, case: dict[str, Any], limit: float = LATENTS, **settings: Any
) -> Tensor:
    """Runs a case and compares all that was recorded; returns the latents."""
    given = {**settings_of(case), "num_inference_steps": STEPS, "output_type": "latent", "return_attention": True}
    latents, attention = prompt_to_prompt(model, case["prompts"], **{**given, **settings})
    skipped = int("source_same_as" in case)
    assert np.abs(latents[skipped:].numpy() - recorded[f"{name}/latents"]).max() < limit
    maps = recorded[f"{name}/cross_maps"]
    assert np.abs(attention.cross_maps[skipped:, ..., : maps.shape[-1]].numpy() - maps).max() < MAPS
    if f"{name}/blend_mask" in recorded:
        # none of the recorded cells lies within rounding of the threshold
        assert np.array_equal(attention.blend_masks.numpy(), recorded[f"{name}/blend_mask"].astype(bool))
    with torch.no_grad():
        images = to_images(decode_latents(model.vae, latents))[skipped:]
    for image, expected in zip(images, recorded[f"{name}/image_sub"], strict=True):
        assert np.abs(np.asarray(image, int)[3::8, 3::8] - expected.astype(int)).max() <= LEVELS
    return latents


INVERTED = ("null_inversion", "null_recon", "null_edit", "ddim_recon")


@pytest.mark.parametrize("name", [name for name in cases("google") if name not in INVERTED])
def test_generated_sources(model: Any, google: Recorded, name: str) -> None:
    scheduler = None
    if name == "pndm_replace":
        scheduler = PNDMScheduler.from_config({**model.scheduler.config, "skip_prk_steps": True})
    latents = google.tensor("plain/initial_latents")
    settings = {"latents": latents, "scheduler": scheduler, "original": name in MISALIGNED}
    check(model, google, name, cases("google")[name], **settings)


def test_text_and_unet(model: Any, google: Recorded) -> None:
    _, hidden = encode_prompts(model, [*cases("google")["plain"]["prompts"], ""])
    assert np.abs(hidden.detach().numpy() - google["plain/text_embeddings"]).max() < 1e-5
    with torch.no_grad():
        result = model.unet(google.tensor("plain/initial_latents"), 750, hidden[:1]).sample
    assert np.abs(result.numpy() - google["plain/unet_t750"]).max() < 1e-4


@pytest.fixture(scope="module")
def null_text(model: Any, real: Image.Image) -> Inversion:
    case = cases("google")["null_inversion"]
    return invert(model, real, case["prompts"][0], "null-text", STEPS, inner_steps=case["inner_steps"])


def test_null_text_inversion(null_text: Inversion, google: Recorded) -> None:
    assert np.abs(null_text.latents[0].numpy() - google["null_inversion/z0"]).max() < 1e-4
    assert np.abs(null_text.latents[4].numpy() - google["null_inversion/ddim_mid"]).max() < 1e-4
    assert np.abs(null_text.latents[-1].numpy() - google["null_inversion/ddim_last"]).max() < 1e-4
    deviations = null_text.latents.flatten(1).std(dim=1).numpy()
    assert np.allclose(deviations, google["null_inversion/ddim_std"], atol=1e-4)
    difference = np.abs(null_text.unconditional[:, 0].numpy() - google["null_inversion/uncond_embeddings"])
    assert np.median(difference) < 1e-5
    assert np.allclose(null_text.losses.numpy(), google["null_inversion/inner_losses"], rtol=1e-3)


def test_null_text_stops_early(model: Any, google: Recorded) -> None:
    case = cases("google")["null_inversion"]
    inversion = invert(
        model,
        google.tensor("null_inversion/z0"),
        case["prompts"][0],
        "null-text",
        STEPS,
        inner_steps=case["inner_steps"],
        early_stop_epsilon=case["early_stop_epsilon_of_early"],
        reconstruct=False,
    )
    assert np.allclose(inversion.losses.numpy(), google["null_inversion/inner_losses_early"], rtol=1e-3, equal_nan=True)
    difference = np.abs(inversion.unconditional[:, 0].numpy() - google["null_inversion/uncond_embeddings_early"])
    assert np.median(difference) < 1e-5


def test_edits_of_a_null_text_inversion(model: Any, null_text: Inversion, google: Recorded) -> None:
    for name in ("null_recon", "null_edit"):
        latents = check(model, google, name, cases("google")[name], LATENTS_NULL, inversion=null_text)
        with torch.no_grad():
            source = to_images(decode_latents(model.vae, latents[:1]))[0]
        assert np.abs(np.asarray(source, int) - np.asarray(null_text.reconstruction, int)).max() <= LEVELS


def test_the_inverted_latents_without_null_text(model: Any, google: Recorded) -> None:
    start = google.tensor("null_inversion/ddim_last")
    check(model, google, "ddim_recon", cases("google")["ddim_recon"], latents=start)


METHODS = {"pnp_direct": "direct", "pnp_npi": "negative-prompt", "pnp_ddim": "ddim"}


@pytest.mark.parametrize("name", cases("pnp"))
def test_inversions_of_pnp(model: Any, google: Recorded, real: Image.Image, name: str) -> None:
    recorded, case = Recorded("pnp"), cases("pnp")[name]
    inversion = invert(model, real, case["prompts"][0], METHODS[name], STEPS, reconstruct=False)
    assert np.abs(inversion.latents[-1].numpy() - google["null_inversion/ddim_last"]).max() < 1e-4
    latents = check(model, recorded, name, case, inversion=inversion)
    if name != "pnp_direct":
        return
    assert torch.equal(latents[0], inversion.latents[0, 0])
    _, hidden = encode_prompts(model, ["", case["prompts"][0]])
    scheduler, start = inversion.scheduler, inversion.latents[-1]
    with torch.no_grad():
        noise_pred = guided_noise(model.unet, start.repeat(2, 1, 1, 1), scheduler.timesteps[0], hidden, 7.5)
    step = scheduler.step(noise_pred, scheduler.timesteps[0], start).prev_sample
    offset = inversion.latents[-2] - step
    assert np.abs(offset.numpy() - recorded["pnp_direct/offset_first_source"]).max() < 2e-4


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> BlipDiffusion:
    folder = tmp_path_factory.mktemp("blip")
    for part in [
        *(FOLDER / "blip").iterdir(),
        *(FOLDER / "pipe" / n for n in ("unet", "vae", "text_encoder", "tokenizer")),
    ]:
        (folder / part.name).symlink_to(part)
    return load_base(folder, LoadOptions(qformer_tokenizer=FOLDER / "bert_tokenizer"))


@pytest.mark.parametrize("name", cases("lavis"))
def test_lavis_with_its_faults(blip: BlipDiffusion, google: Recorded, name: str) -> None:
    """(a) placeholders and vectors: the prompt holds both, and the aligner counts the text alone (``original``);
    (b) the inversion's prompt is another one; the blend's words are the source's alone."""
    recorded, case = Recorded("lavis"), cases("lavis")[name]
    subject = blip.encode_subject(Image.open(FOLDER / "inputs/subject.png"), case["cond_subject"])
    assert np.abs(subject.numpy() - recorded["blip_generated/query_embeds"]).max() < 1e-5
    prompts = [case["prompts"][0], "a {} " + case["prompts"][1].removeprefix("a ")]
    _, hidden = encode_prompts(blip, [*prompts, case["neg_prompt"]], subject)
    assert np.abs(hidden.detach().numpy() - recorded["blip_generated/text_embeddings"]).max() < 1e-5
    settings: dict[str, Any] = {"subject_embeddings": subject, "negative_prompt": case["neg_prompt"], "original": True}
    if name == "blip_generated":
        settings["latents"] = google.tensor("plain/initial_latents")
    else:
        latents = recorded.tensor("blip_real/z0")
        wrong = case["inversion_prompt"][0]
        settings["inversion"] = invert(
            blip, latents, wrong, "ddim", STEPS, source_guidance_scale=1.0, reconstruct=False
        )
        assert np.abs(settings["inversion"].latents[-1].numpy() - recorded["blip_real/ddim_last"]).max() < 1e-4
    check(blip, recorded, name, {**case, "prompts": prompts, "blend_words": [case["src_subject"]]}, **settings)
