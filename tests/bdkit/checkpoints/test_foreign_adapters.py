"""LoRAs, learned words and single files of other programs draw what diffusers' own pipeline draws with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from foreign_files import ldm_state, random_loras, save_diffusers_lora, save_kohya_lora, stable_diffusion
from safetensors.torch import load_file, save_file
from torch import Tensor

from bdkit.checkpoints.adapters import load_start
from bdkit.checkpoints.files import LoadOptions
from bdkit.checkpoints.load import checkpoint_hash, model_hash
from bdkit.methods import build_method
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.sampling import initial_noise
from bdkit.testing.tiny_checkpoints import public_tiny_model
from bdkit.utils.errors import InputError
from bdkit.utils.tensors import read_content

PROMPT = "a dog in the snow"
STEPS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stable_diffusion(public_tiny_model(), tmp_path_factory.mktemp("plain") / "sd")


@pytest.fixture(scope="module")
def loras(base: Path) -> dict[str, dict[str, Tensor]]:
    return random_loras(base)


def pipeline(base: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe: StableDiffusionPipeline, prompt: str = PROMPT) -> np.ndarray:
    noise, _ = initial_noise([0], (4, 16, 16))
    images: np.ndarray = pipe(prompt, latents=noise, num_inference_steps=STEPS, output_type="np").images
    return images


def ours(model: LatentDiffusion, scheduler: Any, prompt: str = PROMPT) -> np.ndarray:
    images: np.ndarray = model(
        prompt, seeds=[0], num_inference_steps=STEPS, guidance_scale=7.5, scheduler=scheduler, output_type="np"
    )
    return images


def load(path: Path, base: Path) -> LatentDiffusion:
    return load_start(path, LoadOptions(base=base))


Save = Callable[[dict[str, dict[str, Tensor]], Path], Path]
SAVED: dict[str, Save] = {
    "diffusers": lambda states, folder: save_diffusers_lora(states, folder, None),
    "diffusers with alpha": lambda states, folder: save_diffusers_lora(states, folder, 6.0),
    "kohya": lambda states, folder: save_kohya_lora(states, folder / "cat style.safetensors", 6.0),
}


@pytest.mark.parametrize("program", SAVED)
def test_a_lora_draws_what_diffusers_draws_with_it(
    program: str, base: Path, loras: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    if program != "kohya":  # of a file with other layers, too, diffusers 0.42 leaves attention out
        loras = {part: {k: v for k, v in state.items() if "attn" in k} for part, state in loras.items()}
    path = SAVED[program](loras, tmp_path)
    pipe = pipeline(base)
    before = theirs(pipe)
    pipe.load_lora_weights(path.parent, weight_name=path.name)
    expected = theirs(pipe)
    model = load(path, base)
    assert np.abs(expected - before).max() > 1e-2
    np.testing.assert_allclose(ours(model, pipe.scheduler), expected, atol=1e-4)


@pytest.mark.parametrize(("program", "scale"), [("diffusers", 1.0), ("diffusers with alpha", 2.0), ("kohya", 2.0)])
def test_each_weight_of_a_lora_is_changed_by_alpha_over_rank(
    program: str, scale: float, base: Path, loras: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    """The closed form: the strength of the text encoder's part, too."""
    model, plain = load(SAVED[program](loras, tmp_path), base), load_start(base)
    for part, changed, first in (
        ("unet", model.unet, plain.unet),
        ("text_encoder", model.text_encoder.model, plain.text_encoder.model),
    ):
        after, before = changed.state_dict(), first.state_dict()
        for name in before:
            stem = name.removesuffix(".weight")
            down, up = (loras[part].get(f"{stem}.lora_{side}.weight") for side in "AB")
            delta = torch.zeros(1) if down is None or up is None else scale * up.flatten(1) @ down.flatten(1)
            delta = delta.reshape(before[name].shape) if delta.numel() > 1 else delta
            torch.testing.assert_close(after[name], before[name] + delta, atol=1e-6, rtol=1e-6)
        assert sum(not torch.equal(after[name], before[name]) for name in before) == len(loras[part]) // 2


def test_other_names_of_the_same_lora(base: Path, loras: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    """Old diffusers without a prefix, peft's folder, layers of their own alphas, half precision, a pickle, a folder."""
    expected = load(save_diffusers_lora(loras, tmp_path / "new", None), base).unet.state_dict()

    def assert_same(path: Path, tolerance: float = 1e-6) -> None:
        for name, value in load(path, base).unet.state_dict().items():
            torch.testing.assert_close(value, expected[name], atol=tolerance, rtol=tolerance)

    assert_same(tmp_path / "new")  # the folder
    unet = loras["unet"]
    peft = tmp_path / "peft" / "adapter_model.safetensors"
    peft.parent.mkdir()
    save_file({f"base_model.model.{name}": value for name, value in unet.items()}, peft)
    (peft.parent / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3, "lora_alpha": 3}')
    assert_same(peft.parent)
    torch.save({f"unet.{name}": value for name, value in unet.items()}, tmp_path / "lora.bin")
    assert_same(tmp_path / "lora.bin")
    halves = {f"unet.{name}": value.half() for name, value in unet.items()}
    save_file(halves, tmp_path / "half.safetensors")
    assert_same(tmp_path / "half.safetensors", 1e-2)
    kohya = load_file(save_kohya_lora(loras, tmp_path / "kohya.safetensors", 3.0))
    name = next(name for name in kohya if name.endswith("to_k.alpha"))
    kohya[name] = torch.tensor(1.5)
    up = name.replace(".alpha", ".lora_up.weight")
    kohya[up] = kohya[up] * 2
    save_file(kohya, tmp_path / "kohya.safetensors")
    assert_same(tmp_path / "kohya.safetensors")
    old = {
        name.replace(".to_out.0.lora_A.", ".to_out_lora.down.").replace(".to_out.0.lora_B.", ".to_out_lora.up."): value
        for name, value in unet.items()
    }
    for letter in "qkv":
        old = {
            name.replace(f".to_{letter}.lora_A.", f".processor.to_{letter}_lora.down.").replace(
                f".to_{letter}.lora_B.", f".processor.to_{letter}_lora.up."
            ): value
            for name, value in old.items()
        }
    save_file(old, tmp_path / "old.safetensors")
    assert_same(tmp_path / "old.safetensors")


def word_file(program: str, folder: Path, vectors: Tensor) -> tuple[Path, str]:
    path = folder / "toy.pt"
    if program == "A1111":
        content = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "mytoy", "step": 9}
        torch.save(content, path)
        return path, "mytoy"
    if program == "Textual Inversion":
        torch.save({"string_to_token": {}, "string_to_param": torch.nn.ParameterDict({"*": vectors})}, path)
        return path, "toy"
    if program == "A1111 safetensors":
        save_file({"emb_params": vectors}, path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors"), "toy"
    (folder / "concept").mkdir()
    torch.save({"<toy>": vectors[0] if len(vectors) == 1 else vectors}, folder / "concept" / "learned_embeds.bin")
    return folder / "concept", "<toy>"


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("program", ["diffusers", "A1111", "A1111 safetensors", "Textual Inversion"])
def test_a_learned_word_draws_what_diffusers_draws_with_it(
    program: str, vectors: int, base: Path, tmp_path: Path
) -> None:
    values = torch.randn(vectors, 128, generator=torch.Generator().manual_seed(1))
    path, word = word_file(program, tmp_path, values)
    pipe = pipeline(base)
    pipe.load_textual_inversion({word: values})
    prompt = f"a {word} in the snow"
    model = load(path, base)
    np.testing.assert_allclose(ours(model, pipe.scheduler, prompt), theirs(pipe, prompt), atol=1e-4)
    assert np.abs(ours(model, pipe.scheduler, prompt) - ours(model, pipe.scheduler)).max() > 1e-2
    again = load_start(model.save_pretrained(tmp_path / "converted"))
    np.testing.assert_allclose(ours(again, pipe.scheduler, prompt), theirs(pipe, prompt), atol=1e-4)
    assert again.record["learned_token"] == word


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_draws_what_diffusers_draws_with_it(suffix: str, base: Path, tmp_path: Path) -> None:
    path = tmp_path / f"v1-5-pruned{suffix}"
    state = ldm_state(load_start(base))
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 3}, path)
    else:
        save_file(state, path)
    pipe = StableDiffusionPipeline.from_single_file(path, config=str(base), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    model = load(path, base)
    plain, read = load_start(base).state_dict(), model.state_dict()
    assert plain.keys() == read.keys()
    assert all(torch.equal(value, read[name]) for name, value in plain.items())
    np.testing.assert_allclose(ours(model, pipe.scheduler), theirs(pipe), atol=1e-4)
    assert model.source == str(path)


def test_what_goes_on_top_of_a_blip_diffusion(
    tiny_folders: dict[str, Path], loras: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = save_kohya_lora(loras, tmp_path / "style.safetensors", 3.0)
    model = load(path, tiny_folders["diffusers"])
    assert isinstance(model, BlipDiffusion)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    delta = loras["unet"][f"{name}.lora_B.weight"] @ loras["unet"][f"{name}.lora_A.weight"]
    before = BlipDiffusion.from_pretrained(tiny_folders["diffusers"]).unet.get_submodule(name).weight
    torch.testing.assert_close(model.unet.get_submodule(name).weight, before + delta)


def test_a_row_of_the_bench_may_start_from_such_a_file(
    base: Path, loras: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    lora = save_kohya_lora(loras, tmp_path / "style.safetensors", 3.0)
    word, token = word_file("A1111 safetensors", tmp_path, torch.randn(1, 128))
    settings = {"device": "cpu", "num_inference_steps": 2}
    plain: Any = build_method("base", str(base), **settings)
    expected = load(lora, base)("a dog in the snow", seeds=[3], num_inference_steps=2)[0]
    method: Any = build_method("base", str(base), start=str(lora), **settings)
    assert np.array_equal(method.generate("a {} {} in the snow", "dog", [3])[0], expected)
    assert method.settings["checkpoint"] == f"{checkpoint_hash(lora)}+{checkpoint_hash(base)}"
    assert method.settings["checkpoint"] == model_hash(load(lora, base))
    method = build_method("base", str(base), start=str(word), **settings)
    expected = load(word, base)(f"a {token} dog in the snow", seeds=[3], num_inference_steps=2)[0]
    assert np.array_equal(method.generate("a {} {} in the snow", "dog", [3])[0], expected)
    method = build_method("base", str(base), token="shiny", **settings)
    expected = plain.generate("a shiny {} in the snow", "dog", [3])[0]
    assert np.array_equal(method.generate("a {} {} in the snow", "dog", [3])[0], expected)


SQUARE = torch.zeros(2, 2)
REFUSED: dict[str, tuple[dict[str, Tensor], str]] = {
    "xl lora": ({"lora_te2_x.lora_down.weight": SQUARE}, "a LoRA of Stable Diffusion XL"),
    "loha": ({"lora_unet_x.hada_w1_a": SQUARE}, "of the kind LoHa"),
    "dora": ({"unet.x.lora_A.weight": SQUARE, "unet.x.lora_magnitude_vector": SQUARE}, "of the kind DoRA"),
    "controlnet": ({"control_model.input_blocks.0.0.weight": SQUARE}, "a ControlNet; give it with --controlnet"),
    "unet": ({"conv_in.weight": SQUARE}, "a U-Net or an autoencoder alone"),
    "xl": (
        dict.fromkeys(
            ("model.diffusion_model.x", "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"), SQUARE
        ),
        "a checkpoint of the kind",
    ),
    "unknown": ({"something": torch.zeros(2, 2, 2)}, "no weights that are known"),
    "no such layer": (
        {"unet.nowhere.to_q.lora_A.weight": SQUARE, "unet.nowhere.to_q.lora_B.weight": SQUARE},
        "a layer that the model lacks, unet.nowhere.to_q",
    ),
    "one matrix": ({"unet.conv_in.lora_A.weight": SQUARE}, "a tensor that is not known: unet.conv_in"),
    "other model": (
        {"unet.conv_in.lora_A.weight": SQUARE, "unet.conv_in.lora_B.weight": SQUARE},
        "was it trained on another kind of model",
    ),
    "rank 0": (
        {"unet.conv_in.lora_A.weight": torch.zeros(0, 36), "unet.conv_in.lora_B.weight": torch.zeros(32, 0)},
        r"of shape \(.*0.*\), where a LoRA has a matrix",
    ),
    "two ranks": (
        {"unet.conv_in.lora_A.weight": torch.zeros(2, 36), "unet.conv_in.lora_B.weight": torch.zeros(32, 3)},
        r"the LoRA's matrices \(32, 3\) and \(2, 36\)",
    ),
    "two alphas": ({"lora_unet_x.alpha": torch.ones(2)}, r"alpha of shape \(2,\), where a LoRA has one finite number"),
    "alpha nan": ({"lora_unet_x.alpha": torch.tensor(torch.nan)}, "numbers that are not finite"),
    "nan": ({"unet.conv_in.lora_A.weight": SQUARE * torch.nan}, "numbers that are not finite"),
    "no vectors": ({"emb_params": torch.zeros(1, 0)}, "no vectors of a learned word"),
    "word without a name": ({"": torch.zeros(1, 128)}, "the word '' cannot stand in a prompt"),
    "word of braces": ({"{}": torch.zeros(1, 128)}, "the word '{}' cannot stand in a prompt"),
    "two words": ({"<a>": torch.zeros(1, 128), "<b>": torch.zeros(1, 128)}, "more than one learned word: <a>, <b>"),
    "A1111 of another model": (
        {"emb_params": torch.zeros(2, 77)},
        "the word 'file' has vectors of 77",
    ),
    "word of another model": ({"<toy>": torch.zeros(1, 1024)}, "vectors of 1024 numbers, the text encoder of 128"),
    "taken word": ({"dog": torch.zeros(1, 128)}, "the word 'dog' is in the tokenizer already"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_named_in_one_line(case: str, base: Path, tmp_path: Path) -> None:
    tensors, message = REFUSED[case]
    path = tmp_path / "file.safetensors"
    save_file({name: value.clone() for name, value in tensors.items()}, path)
    with pytest.raises(InputError, match=message) as caught:
        load(path, base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    ["[]", "{", '{"unet.lora_alpha": [1, 2]}', '{"unet.lora_alpha": NaN}', '{"unet.alpha_pattern": {"(": 1}}'],
)
def test_settings_of_a_lora_that_cannot_be_used_are_named(settings: str, base: Path, tmp_path: Path) -> None:
    shapes = {"A": (2, 36), "B": (32, 2)}
    tensors = {f"unet.conv_in.lora_{side}.weight": torch.zeros(shape) for side, shape in shapes.items()}
    save_file(tensors, tmp_path / "lora.safetensors", metadata={"lora_adapter_metadata": settings})
    with pytest.raises(InputError, match=r"lora.safetensors has settings .*(no JSON|cannot be used)"):
        load(tmp_path / "lora.safetensors", base)


def test_the_model_below_must_be_named(base: Path, loras: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    path = save_kohya_lora(loras, tmp_path / "style.safetensors", 3.0)
    with pytest.raises(InputError, match="is a LoRA, which goes on top of a model; name that model with base="):
        load_start(path)
    save_file(ldm_state(load_start(base)), tmp_path / "sd.safetensors")
    with pytest.raises(InputError, match=r"holds weights alone.*--base, for its configs and tokenizer"):
        load_start(tmp_path / "sd.safetensors", LoadOptions(local_files_only=True))
    read = read_content(path)
    save_file({name: value for name, value in read.items() if not name.endswith("lora_up.weight")}, path)
    with pytest.raises(InputError, match="has an alpha without its matrices"):
        load(path, base)
