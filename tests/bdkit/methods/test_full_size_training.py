"""The methods as full size uses them: Stable Diffusion as the start, memory switches, what diffusers reads back."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from bdkit import cli
from bdkit.checkpoints.files import KEY_VALUES
from bdkit.methods import build_method
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.configs import PUBLIC_SCHEDULER, TINY
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.models.tokenizers import clip_tokenizer
from bdkit.testing.seeded_weights import TINY_WORDS, seeded_state
from bdkit.testing.tiny_checkpoints import write_tiny_checkpoint
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.config import FewStepConfig
from bdkit.training.finetuning import training_settings
from bdkit.utils.errors import InputError

TEMPLATE = "a {} {} in the jungle"
QUICK: dict[str, Any] = {"steps": 2, "learning_rate": 1e-2, "snapshots": (), "mixed_precision": "no"}
TRAINED = ("dreambooth", "dreambooth-lora", "textual-inversion", "custom-diffusion")


def quick(name: str, **more: Any) -> dict[str, Any]:
    """Settings of a short fit, without the hundreds of images of the class."""
    return {**QUICK, **({"prior_loss_weight": 0.0} if name in ("dreambooth", "custom-diffusion") else {}), **more}


def subject_images(count: int = 3, side: int = 32) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's format, written by diffusers itself, with weights that depend on their names."""
    tokenizer = clip_tokenizer(TINY_WORDS, 77)
    text = CLIPTextConfig(
        **TINY.text_encoder, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    parts = {"unet": UNet2DConditionModel(**TINY.unet), "vae": AutoencoderKL(**TINY.vae), "text": CLIPTextModel(text)}
    for name, part in parts.items():
        part.load_state_dict(seeded_state({key: value.shape for key, value in part.state_dict().items()}, name))
    pipeline = StableDiffusionPipeline(
        vae=parts["vae"], unet=parts["unet"], text_encoder=parts["text"], tokenizer=tokenizer,
        scheduler=PNDMScheduler(**PUBLIC_SCHEDULER), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("base") / "sd15"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> LatentDiffusion:
    return LatentDiffusion.from_pretrained(folder)


def public_image(pipe: StableDiffusionPipeline, prompt: str, seed: int, steps: int = 3) -> np.ndarray:
    """What diffusers' own pipeline draws from our noise; floats in 0..1."""
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn((4, 16, 16), generator=torch.Generator().manual_seed(seed))
    return pipe(prompt, latents=noise[None], num_inference_steps=steps, output_type="np").images[0]


def ours(method: Any, seed: int) -> np.ndarray:
    return np.asarray(method.generate(TEMPLATE, "dog", [seed])[0]) / 255


def test_a_plain_stable_diffusion_draws_as_diffusers_does(folder: Path, base: LatentDiffusion) -> None:
    expected = public_image(StableDiffusionPipeline.from_pretrained(folder), "a dog in the jungle", 3)
    drawn = base("a dog in the jungle", seeds=[3], num_inference_steps=3, output_type="np")[0]
    assert drawn.shape == (32, 32, 3)
    assert np.abs(drawn - expected).max() < 1 / 255
    assert expected.std() > 0.05


@pytest.mark.parametrize(
    ("name", "left_out", "changes"),
    [
        ("DDIMScheduler", ["clip_sample"], {}),  # its default is True
        ("DDIMScheduler", ["clip_sample", "set_alpha_to_one"], {"steps_offset": 0}),
        ("PNDMScheduler", [], {"steps_offset": 0}),
        ("PNDMScheduler", ["skip_prk_steps"], {"clip_sample": True}),
        ("LMSDiscreteScheduler", ["timestep_spacing"], {"steps_offset": 0}),
    ],
)
def test_old_schedulers_are_mended_as_diffusers_does(
    name: str, left_out: list[str], changes: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    path = old / "scheduler" / "scheduler_config.json"
    settings = {**json.loads(path.read_text()), "set_alpha_to_one": False, "clip_sample": False, **changes}
    settings = {key: value for key, value in settings.items() if key not in left_out}
    path.write_text(json.dumps(settings))  # its own class name is still PNDM's: the index decides
    index = json.loads((old / "model_index.json").read_text())
    (old / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", name]}))
    expected = public_image(StableDiffusionPipeline.from_pretrained(old), "a dog in the jungle", 3, steps=6)
    model = LatentDiffusion.from_pretrained(old)
    assert type(model.scheduler).__name__ == name
    drawn = model("a dog in the jungle", seeds=[3], num_inference_steps=6, output_type="np")[0]
    assert np.abs(drawn - expected).max() < 1 / 255


def test_a_blip_diffusions_scheduler_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "public")
    path = folder / "scheduler" / "scheduler_config.json"
    settings = {key: value for key, value in json.loads(path.read_text()).items() if key != "clip_sample"}
    path.write_text(json.dumps({**settings, "_class_name": "DDIMScheduler", "steps_offset": 0}))
    config = BlipDiffusion.from_pretrained(folder).scheduler.config
    assert (config.clip_sample, config.steps_offset) == (True, 0)


def test_a_small_size_in_an_old_unets_config_means_64(folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    path = old / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_diffusers_version": "0.6.0"}))
    pipeline = StableDiffusionPipeline.from_pretrained(old)
    model = LatentDiffusion.from_pretrained(old)
    assert model.resolution == pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 128


@pytest.mark.parametrize("channels", [9, 5])
def test_a_unet_that_needs_more_than_latents_is_refused(
    channels: int, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    UNet2DConditionModel(**{**TINY.unet, "in_channels": channels}).save_pretrained(other / "unet")
    subject_images(1)[0].save(tmp_path / "a.png")
    finetune = ["finetune", "--images", str(tmp_path), "--subject", "dog", "--out", str(tmp_path / "out")]
    calls = [[*finetune, "--method", name] for name in TRAINED]
    calls.append(["generate", "--prompt", "a dog", "--out", str(tmp_path / "out")])
    for call in calls:
        assert cli.main([*call, "--model", str(other)]) == 2
        err = capsys.readouterr().err
        assert f"{other}: the U-Net takes {channels} channels" in err
        assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_saving_keeps_the_scheduler_that_pipelines_change(base: LatentDiffusion, tmp_path: Path) -> None:
    own = PNDMScheduler.from_config(base.scheduler.config, steps_offset=0)
    parts = {"vae": base.vae, "unet": base.unet, "text_encoder": base.text_encoder, "tokenizer": base.tokenizer}
    model = LatentDiffusion(**parts, scheduler=own, defaults=base.defaults)
    again = LatentDiffusion.from_pretrained(model.save_pretrained(tmp_path / "sd", torch.float16))
    saved = json.loads((tmp_path / "sd" / "scheduler" / "scheduler_config.json").read_text())
    assert model.scheduler.config.steps_offset == saved["steps_offset"] == 0
    assert again.scheduler.config.steps_offset == 1  # read as every plain Stable Diffusion is
    kept = load_file(tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float16}
    call: dict[str, Any] = {"seeds": [0], "num_inference_steps": 2, "output_type": "np", "scheduler": own}
    drawn, expected = (m("a dog", **call) for m in (again, model))
    assert np.abs(drawn - expected).max() < 0.05


def test_what_cannot_be_done_or_saved_is_told(base: LatentDiffusion, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot look at images.*dreambooth-lora or textual-inversion"):
        build_method("blip-diffusion", base, **QUICK)
    for name in ("base", "blip-diffusion", *TRAINED):
        settings = {} if name == "base" else quick(name)
        with pytest.raises(InputError, match="save"):
            build_method(name, tiny_model(), **settings).save(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_no_stable_diffusion(tmp_path: Path, folder: Path) -> None:
    import shutil

    with pytest.raises(InputError, match="is no Stable Diffusion"):
        LatentDiffusion.from_pretrained(tmp_path)
    shutil.copytree(folder, tmp_path / "sd")
    weights = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    from safetensors.torch import save_file

    save_file({k: v for k, v in state.items() if k != "conv_in.bias"}, weights)
    with pytest.raises(InputError, match=r"missing keys conv_in\.bias"):
        LatentDiffusion.from_pretrained(tmp_path / "sd")


@pytest.mark.parametrize("name", TRAINED)
def test_a_saved_subject_is_drawn_by_diffusers(folder: Path, tmp_path: Path, name: str) -> None:
    method = build_method(name, str(folder), num_inference_steps=3, device="cpu", **quick(name))
    method.fit(subject_images(), "dog", 0)
    before = build_method("base", str(folder), num_inference_steps=3, device="cpu")
    assert np.abs(ours(method, 1) - ours(before, 1)).max() > 0.02
    out = method.save(tmp_path / "mine")
    if name == "dreambooth":
        pipe, words = StableDiffusionPipeline.from_pretrained(out), "sks dog"
        again = LatentDiffusion.from_pretrained(out)("a sks dog in the jungle", seeds=[1], num_inference_steps=3)[0]
        assert np.array_equal(np.asarray(again) / 255, ours(method, 1))
        record = json.loads((out / "finetuned.json").read_text())["finetuned"]
        assert str(tmp_path) not in "".join(path.read_text() for path in out.rglob("*.json"))
    else:
        pipe, words = StableDiffusionPipeline.from_pretrained(folder), "sks dog"
        if name == "dreambooth-lora":
            pipe.load_lora_weights(out)
            assert sorted(path.name for path in out.iterdir()) == ["finetuned.json", "pytorch_lora_weights.safetensors"]
        else:
            pipe.load_textual_inversion(out, weight_name="learned_embeds.safetensors")
            words = "<*> dog"
        if name == "custom-diffusion":
            pipe.unet.load_attn_procs(out, weight_name=KEY_VALUES, _pipeline=pipe)
            words = "<new1> dog"
        record = json.loads((out / "finetuned.json").read_text())
    assert record["class_noun"] == "dog"
    assert record["step"] == record["steps"] == 2
    assert np.abs(public_image(pipe, f"a {words} in the jungle", 1) - ours(method, 1)).max() < 1.5 / 255


@pytest.mark.parametrize("name", ["blip-diffusion", *TRAINED])
def test_checkpointing_changes_memory_and_not_the_result(name: str) -> None:
    fits = {}
    for on in (False, True):
        model = tiny_model()
        method = build_method(name, model, **quick(name, gradient_checkpointing=on))
        method.fit(subject_images(), "dog", 0)
        fits[on] = method.state()
        assert not model.unet.is_gradient_checkpointing
    assert fits[True].keys() == fits[False].keys()
    assert all(torch.allclose(value, fits[False][key], atol=1e-5) for key, value in fits[True].items())


def saved_for_backward(checkpointing: bool) -> int:
    """Bytes that a forward pass of the tiny U-Net keeps for the way back."""
    unet, total = tiny_model().unet, 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    config = FewStepConfig(gradient_checkpointing=checkpointing)
    with training_settings(unet, config), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        unet(torch.zeros(1, 4, 8, 8), 0, torch.zeros(1, 20, 32))
    assert not unet.is_gradient_checkpointing
    return total


def test_checkpointing_keeps_less() -> None:
    assert saved_for_backward(True) < 0.5 * saved_for_backward(False)


@pytest.mark.parametrize("name", ["blip-diffusion", *TRAINED])
def test_a_bfloat16_model_is_trained_in_float32(name: str) -> None:
    model = tiny_model().to(torch.bfloat16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    method = build_method(name, model, **quick(name, learning_rate=1e-6, mixed_precision="bf16"))
    method.fit(subject_images(), "dog", 0)
    state = method.state()
    assert all(value.dtype == torch.float32 for value in state.values())
    # a step of 1e-6 is lost in bfloat16
    moved = {key: (value.bfloat16().float() != value).any() for key, value in state.items()}
    assert sum(map(bool, moved.values())) > 0.5 * len(moved)
    assert method.generate(TEMPLATE, "dog", [0])[0].size == (32, 32)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_accumulation_runs_as_many_batches_a_step() -> None:
    model, calls = tiny_model(), []
    model.unet.register_forward_hook(lambda *_: calls.append(1))
    settings = quick("textual-inversion", gradient_accumulation_steps=3, batch_size=1)
    build_method("textual-inversion", model, **settings).fit(subject_images(), "dog", 0)
    assert len(calls) == 2 * 3


def test_lora_shares_the_models_weights_and_starts_as_the_model() -> None:
    model = tiny_model()
    method: Any = build_method("dreambooth-lora", model, **quick("dreambooth-lora", learning_rate=0.0, rank=2))
    own = {value.data_ptr() for value in model.unet.state_dict().values()}
    shared = [value for name, value in method._unet.state_dict().items() if "lora" not in name]
    assert len(shared) == len(own)
    assert {value.data_ptr() for value in shared} == own
    method.fit(subject_images(), "dog", 0)
    expected = model("a sks dog in the jungle", seeds=[1])[0]
    assert method.generate(TEMPLATE, "dog", [1])[0].tobytes() == expected.tobytes()
    # q, k, v and out of two attentions a block, each A and B; nothing else is trained
    assert len(method.state()) == 2 * 4 * sum("to_q" in name for name, _ in model.unet.named_parameters())
    assert all(min(value.shape) == 2 for value in method.state().values())


def test_public_weights_are_fine_tuned_by_their_own_preset_from_the_command_line(tmp_path: Path) -> None:
    """The learning rate is the public recipe's, as the model's record says; what comes out is drawn and handed over."""
    public, photos, out = write_tiny_checkpoint(tmp_path / "public"), tmp_path / "photos", tmp_path / "my-dog"
    photos.mkdir()
    for number, image in enumerate(subject_images()):
        image.save(photos / f"{number}.png")
    flags = ["--model", str(public), "--images", str(photos), "--subject", "dog", "--out", str(out), "--steps", "2"]
    assert cli.main(["finetune", *flags]) == 0
    record = json.loads((out / "bdkit.json").read_text())
    expected = {"learning_rate": 5e-6, "batch_size": 3, "weight_decay": 0.01, "mixed_precision": "bf16", "steps": 2}
    assert {name: record["finetuned"][name] for name in expected} == expected
    mine, before = BlipDiffusion.from_pretrained(out), BlipDiffusion.from_pretrained(public)
    assert mine.subject_class == "dog"
    moved = (mine.subject_embeddings - before.encode_subject(subject_images(), "dog").mean(dim=0)).abs()
    assert 0 < moved.max() < 1e-3
    unet = UNet2DConditionModel.from_pretrained(out / "unet").state_dict()
    assert all(torch.equal(value, unet[name]) for name, value in mine.unet.state_dict().items())
    assert not torch.equal(unet["conv_in.weight"], before.unet.conv_in.weight)
    assert mine("in the jungle", seeds=[1], num_inference_steps=2)[0].size == (32, 32)
