"""Structure control against diffusers' own ControlNet pipeline, its switches, and that it leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, MultiControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image
from torch import Tensor

from bdkit.editing.structure_control import StructureControl, load_controlnet, structure_pixels
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.sampling import guided_noise
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

PROMPT = "a {} in the jungle"


def controlnet(seed: int = 0) -> ControlNetModel:
    """A ControlNet of the tiny U-Net whose every weight counts, the zero convolutions too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = ControlNetModel.from_unet(tiny_model().unet, conditioning_embedding_out_channels=(8, 16, 16))
        for parameter in net.parameters():
            parameter.data.normal_(std=0.2 if parameter.dim() < 2 else parameter[0].numel() ** -0.5)
    return net.eval()


def structure(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def reference(seed: int = 9) -> Image.Image:
    return structure(seed, (40, 36))


def latents_of(model: BlipDiffusion, control: StructureControl | None, **settings: Any) -> Tensor:
    settings = {"seeds": [3, 4], "num_inference_steps": 5, **settings}
    return model(PROMPT, reference(), "dog", control=control, output_type="latent", **settings)


def public_pipeline(model, nets, maps, guidance_scale, scheduler, **settings):
    """diffusers' StableDiffusionControlNetPipeline on the same parts, noise and prompt embeddings."""
    pipe = StableDiffusionControlNetPipeline(
        vae=model.vae, text_encoder=model.text_encoder.model, tokenizer=model.tokenizer, unet=model.unet,
        controlnet=nets, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    subject = model.encode_subject(reference(), "dog")
    noise = torch.stack([torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(s)) for s in (3, 4)])
    return pipe(
        image=maps,
        prompt_embeds=model.encode_prompt(PROMPT, subject, "dog").expand(2, -1, -1),
        negative_prompt_embeds=model.encode_prompt("", prompt_reps=1).expand(2, -1, -1),
        latents=noise,
        guidance_scale=guidance_scale,
        num_inference_steps=5,
        height=32,
        width=32,
        output_type="latent",
        **settings,
    ).images


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
@pytest.mark.parametrize(("strength", "start", "end"), [(1.0, 0.0, 1.0), (0.4, 0.2, 0.7)])
def test_as_diffusers_draws(model, name, guidance_scale, strength, start, end):
    net, scheduler = controlnet(), getattr(diffusers, name).from_config(model.scheduler.config)
    control = StructureControl(net, structure(), strength=strength, start=start, end=end)
    ours = latents_of(model, control, guidance_scale=guidance_scale, scheduler=scheduler)
    expected = public_pipeline(
        model, net, structure_pixels([structure()], 32, 32), guidance_scale, scheduler,
        controlnet_conditioning_scale=strength, control_guidance_start=start, control_guidance_end=end,
    )  # fmt: skip
    assert (ours - expected).abs().max() < 2e-4
    assert (ours - latents_of(model, None, guidance_scale=guidance_scale, scheduler=scheduler)).abs().max() > 1e-2


def test_several_at_once_as_diffusers_draws(model: BlipDiffusion) -> None:
    nets, maps = [controlnet(0), controlnet(1)], [structure(0), structure(1)]
    control = StructureControl(nets, maps, strength=(0.7, 0.3), start=(0.0, 0.4), end=(0.6, 1.0))
    ours = latents_of(model, control, guidance_scale=4.0)
    expected = public_pipeline(
        model, MultiControlNetModel(nets), [structure_pixels([m], 32, 32) for m in maps], 4.0, model.scheduler,
        controlnet_conditioning_scale=[0.7, 0.3], control_guidance_start=[0.0, 0.4], control_guidance_end=[0.6, 1.0],
    )  # fmt: skip
    assert (ours - expected).abs().max() < 2e-4


def test_strength_nought_is_no_control_bit_for_bit(model: BlipDiffusion) -> None:
    plain = latents_of(model, None)
    assert torch.equal(latents_of(model, StructureControl(controlnet(), structure(), strength=0)), plain)
    weak, strong = (
        (latents_of(model, StructureControl(controlnet(), structure(), strength=s)) - plain).abs().mean()
        for s in (0.01, 1.0)
    )
    assert 0 < weak < strong


def test_guided_is_a_control_of_the_prompt_alone(model: BlipDiffusion) -> None:
    net, generator = controlnet(), torch.Generator().manual_seed(0)
    latents, time = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor(500)
    negative, positive = torch.randn(2, 2, 20, 32, generator=generator)
    control = StructureControl(net, structure(), guided=True).residuals(model.unet, 2, 32, 32, 4)
    with torch.no_grad():
        twice, context = latents.repeat(2, 1, 1, 1), torch.cat([negative, positive])
        both = guided_noise(model.unet, twice, time, context, 3.0, **control(0, 1, twice, time, context))
        shown = structure_pixels([structure()], 32, 32).expand(2, -1, -1, -1)
        down, middle = net(latents, time, positive, shown, return_dict=False)
        shaped = model.unet(
            latents, time, positive, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        plain = model.unet(latents, time, negative).sample
    assert (both - (plain + 3 * (shaped - plain))).abs().max() < 1e-4
    alone = latents_of(model, StructureControl(net, structure(), guided=True), guidance_scale=1.0)
    assert torch.equal(alone, latents_of(model, StructureControl(net, structure()), guidance_scale=1.0))


def test_a_structure_an_image_of_any_size(model: BlipDiffusion) -> None:
    net = controlnet()
    both = latents_of(model, StructureControl(net, [structure(0), structure(1)]))
    for k, seed in enumerate((3, 4)):
        alone = latents_of(model, StructureControl(net, structure(k)), seeds=[seed])
        assert (both[k] - alone[0]).abs().max() < 1e-4
    control = StructureControl(controlnet(), structure(0, (50, 30)))
    assert latents_of(model, control, height=40, width=24).shape == (2, 4, 10, 6)


def test_maps_become_pixels_as_pillow_resizes() -> None:
    image = structure(0, (20, 10))
    pixels = structure_pixels([image], 16, 24)
    expected = np.asarray(image.resize((24, 16), Image.Resampling.BICUBIC)) / 255
    assert pixels.shape == (1, 3, 16, 24)
    assert np.allclose(pixels[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def drawn(model: BlipDiffusion) -> str:
    return model(PROMPT, reference(), "dog", seeds=[7])[0].tobytes().hex()


@pytest.mark.slow
def test_a_generation_after_control_is_that_of_a_fresh_process(model: BlipDiffusion) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    latents_of(model, StructureControl(controlnet(), structure()))
    code = (
        "import importlib.util; "
        f"spec = importlib.util.spec_from_file_location('case', {__file__!r}); "
        "case = importlib.util.module_from_spec(spec); spec.loader.exec_module(case); "
        f"case.torch.set_num_threads({torch.get_num_threads()}); "
        "print(case.drawn(case.tiny_model()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert drawn(model) == done.stdout.strip()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_control_in_half_precision(model: BlipDiffusion) -> None:
    half, control = tiny_model().to(torch.bfloat16), StructureControl(controlnet(), structure())
    low = latents_of(half, control, guidance_scale=1.0, num_inference_steps=2).float()
    assert {p.dtype for p in control.nets.parameters()} == {torch.bfloat16}
    high = latents_of(model, StructureControl(controlnet(), structure()), guidance_scale=1.0, num_inference_steps=2)
    assert 0 < (low - high).abs().mean() < 0.1 * high.abs().mean()


def test_reading_a_folder_and_a_models_own(tmp_path: Path, model: BlipDiffusion) -> None:
    net = controlnet()
    net.save_pretrained(tmp_path / "alone")
    net.save_pretrained(tmp_path / "model" / "controlnet")
    expected = latents_of(model, StructureControl(net, structure()))
    for place in ("alone", "model"):
        control = StructureControl.from_pretrained(tmp_path / place, structure())
        assert torch.equal(latents_of(model, control), expected)
    net.save_pretrained(tmp_path / "bin", safe_serialization=False)
    assert list((tmp_path / "bin").glob("*.bin"))
    assert torch.equal(latents_of(model, StructureControl.from_pretrained(tmp_path / "bin", structure())), expected)


def test_a_controlnet_that_cannot_be_read(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none", "nobody/no-such-controlnet"):
        with pytest.raises(InputError, match="no ControlNet at") as error:
            load_controlnet(place)
        assert "\n" not in str(error.value)
    net = controlnet()
    net.save_pretrained(tmp_path / "short")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "short" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.bias"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"conv_in\.bias"):
        load_controlnet(tmp_path / "short")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strength": -0.1}, "strength of a ControlNet is -0.1"),
        ({"start": 0.5, "end": 0.5}, "from 0.5 to 0.5"),
        ({"end": 1.2}, "from 0.0 to 1.2"),
        ({"strength": (1.0, 0.5)}, "2 values of strength for 1 ControlNets"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        StructureControl(controlnet(), structure(), **settings)
    assert words in str(error.value)


def test_what_does_not_fit_is_refused(model: BlipDiffusion) -> None:
    with pytest.raises(InputError, match="2 ControlNets but 1 structure maps"):
        StructureControl([controlnet(), controlnet()], structure())
    with pytest.raises(InputError, match="no structure map"):
        StructureControl(controlnet(), [])
    with pytest.raises(InputError, match="3 structure maps for 2 images"):
        latents_of(model, StructureControl(controlnet(), [structure()] * 3))
    other = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    with pytest.raises(InputError, match="8 times smaller, the model's autoencoder 4 times"):
        latents_of(model, StructureControl(other, structure()))
    small = ControlNetModel(
        block_out_channels=(8, 8), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), layers_per_block=1,
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4, conditioning_embedding_out_channels=(8, 8, 8),
    )  # fmt: skip
    with pytest.raises(InputError, match="cross_attention_dim is 16, the model's 32"):
        latents_of(model, StructureControl(small, structure()))
