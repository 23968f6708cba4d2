"""The example of docs/own_method.md, run as it stands there on tiny random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection
from generate_helpers import SMALL, blocks, made
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from bdkit.models.configs import PUBLIC_SCHEDULER, TINY
from bdkit.models.tokenizers import clip_tokenizer
from bdkit.testing.seeded_weights import TINY_WORDS, seeded_state
from eval.experiments import BenchConfig, read_rows
from eval.generate.executors import one_thread
from eval.results_dir import ImageId, read_run


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion as diffusers writes it, with random weights."""
    tokenizer = clip_tokenizer(TINY_WORDS, 77)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = CLIPTextConfig(**TINY.text_encoder, vocab_size=len(tokenizer), **ids)
    parts = {"unet": UNet2DConditionModel(**TINY.unet), "vae": AutoencoderKL(**TINY.vae)}
    parts["text_encoder"] = CLIPTextModel(text)
    for name, part in parts.items():
        part.load_state_dict(seeded_state({key: value.shape for key, value in part.state_dict().items()}, name))
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = PNDMScheduler(**{**PUBLIC_SCHEDULER, "steps_offset": 1})
    pipe = StableDiffusionPipeline(**parts, tokenizer=tokenizer, scheduler=scheduler, **none)
    folder = tmp_path_factory.mktemp("sd") / "sd15"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(stable_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random IP-Adapter weights of the right shapes, in the folders of h94/IP-Adapter."""
    folder = tmp_path_factory.mktemp("ip") / "models"
    unet = UNet2DConditionModel.from_pretrained(stable_diffusion / "unet")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=16, projection_dim=8)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    width = unet.config.cross_attention_dim
    projection = ImageProjection(image_embed_dim=8, cross_attention_dim=width, num_image_text_embeds=4).state_dict()
    shapes = {f"image_proj.{name.replace('image_embeds', 'proj')}": v.shape for name, v in projection.items()}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            shapes |= {f"ip_adapter.{number}.to_{part}_ip.weight": (hidden, width) for part in "kv"}
    save_file(seeded_state(shapes, "adapter"), folder / "ip-adapter_sd15.safetensors")
    return folder.parent


def test_the_example_is_diffusers_ip_adapter(here: Path, stable_diffusion: Path, adapter: Path) -> None:
    rows = json.loads(blocks("json"))
    for row in rows[:2]:
        row["overrides"] |= {"adapter": str(adapter), "steps": 2}
    (here / "rows.json").write_text(json.dumps(rows))
    suite = {**SMALL, "model": str(stable_diffusion), "subjects": 2, "prompts": 1}
    chosen = ("ip-adapter", "ip-adapter-0.8")
    drawn = made("out", *chosen, **{**suite, "rows": read_rows(here / "rows.json")})
    image = ImageId("ip-adapter", 0, "dog", 0, 0)
    assert drawn["images/seed0/ip-adapter/dog/00-0.png"] != drawn["images/seed0/ip-adapter-0.8/dog/00-0.png"]
    assert len([name for name in drawn if name.startswith("images")]) == 2 * 2 * 2
    # the same by hand
    pipe = StableDiffusionPipeline.from_pretrained(stable_diffusion, safety_checker=None)
    pipe.load_ip_adapter(str(adapter), subfolder="models", weight_name="ip-adapter_sd15.safetensors")
    pipe.set_ip_adapter_scale(0.6)
    references = [Image.open(path).convert("RGB") for path in sorted((here / "out/references/dog").iterdir())]
    config = BenchConfig(**suite)
    (prompt,) = config.load_suite().prompts(next(s for s in config.load_suite().subjects if s.name == "dog"))
    noise = [torch.Generator().manual_seed(ImageId("ip-adapter", 0, "dog", 0, n).seed("mini-quick")) for n in range(2)]
    with one_thread():
        expected = pipe(
            prompt.template.replace("{} {}", "dog"),
            ip_adapter_image=[references],
            num_images_per_prompt=2,
            num_inference_steps=2,
            generator=noise,
        ).images[0]
    assert np.array_equal(np.asarray(Image.open(image.path(here / "out"))), np.asarray(expected))
    settings = read_run(here / "out")["rows"]["ip-adapter"]["settings"]
    assert (settings["class"], settings["scale"]) == ("ip_adapter:IPAdapter", 0.6)
    assert settings["model"] == str(stable_diffusion)
