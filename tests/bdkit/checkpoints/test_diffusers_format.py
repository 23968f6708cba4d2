"""The public format: every form its weights come in, and a clear line for all that can be wrong with them."""

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import assert_same
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from bdkit import cli
from bdkit.checkpoints import hub
from bdkit.checkpoints.formats.keys import text_to_file, vae_to_old_file
from bdkit.checkpoints.load import checkpoint_hash
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.utils.errors import InputError

STEM = "diffusion_pytorch_model"
SCHEDULER = "scheduler/scheduler_config.json"


def change(path: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    state = load_file(path)
    save_file(edit(state) or state, path, metadata={"format": "pt"})


def to_bin(folder: Path, name: str, new: str) -> None:
    torch.save(load_file(folder / name), folder / new)
    (folder / name).unlink()


def shard(path: Path, suffix: str) -> None:
    """A weight file in two shards and an index, as large models are saved."""
    state = load_file(path)
    path.unlink()
    stem = path.stem if suffix == "safetensors" or path.stem == STEM else "pytorch_model"
    names = sorted(state)
    halves = [names[::2], names[1::2]]
    where = {}
    for number, half in enumerate(halves, start=1):
        file = path.with_name(f"{stem}-{number:05d}-of-00002.{suffix}")
        part = {name: state[name] for name in half}
        save_file(part, file, metadata={"format": "pt"}) if suffix == "safetensors" else torch.save(part, file)
        where |= dict.fromkeys(half, file.name)
    path.with_name(f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_pickles_and_shards_give_the_same_model_and_safetensors_come_first(public: Path, model: BlipDiffusion) -> None:
    (public / "unet" / f"{STEM}.bin").write_bytes(b"not looked at")
    assert_same(BlipDiffusion.from_pretrained(public), model)
    to_bin(public / "qformer", "model.safetensors", "pytorch_model.bin")
    to_bin(public / "vae", f"{STEM}.safetensors", f"{STEM}.bin")
    shard(public / "unet" / f"{STEM}.safetensors", "safetensors")
    shard(public / "text_encoder" / "model.safetensors", "bin")
    assert_same(BlipDiffusion.from_pretrained(public), model)


def test_unused_folders_are_ignored_and_half_precision_is_read(public: Path, model: BlipDiffusion) -> None:
    for name in ("controlnet", "vision_encoder"):
        (public / name).mkdir()
        (public / name / "config.json").write_text("nonsense")
    change(public / "unet" / f"{STEM}.safetensors", lambda state: {k: v.half() for k, v in state.items()})
    loaded = BlipDiffusion.from_pretrained(public)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert_same(loaded, model, tolerance=1e-3)
    half = BlipDiffusion.from_pretrained(public, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_the_eps_of_the_vision_tower_is_1e_5_unless_the_config_says_otherwise(public: Path) -> None:
    path = public / "qformer" / "config.json"
    config = json.loads(path.read_text())
    for given, expected in ((None, 1e-5), (1e-6, 1e-6)):
        vision = {k: v for k, v in config["vision_config"].items() if k != "layer_norm_eps"}
        vision |= {} if given is None else {"layer_norm_eps": given}
        path.write_text(json.dumps(config | {"vision_config": vision}))
        encoder = BlipDiffusion.from_pretrained(public).multimodal_encoder
        norms = [m for m in encoder.vision_model.modules() if isinstance(m, torch.nn.LayerNorm)]
        assert {norm.eps for norm in norms} == {expected}
        assert encoder.qformer.embeddings.layernorm.eps == 1e-12


def test_the_old_names_of_the_vae_are_understood(public: Path, model: BlipDiffusion) -> None:
    def old(state: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = vae_to_old_file(state)
        assert any(name.endswith("attentions.0.query.weight") for name in renamed)
        matrices = [k for k, v in renamed.items() if ".attentions." in k and v.dim() == 2]
        return renamed | {name: renamed[name][:, :, None, None] for name in matrices}

    change(public / "vae" / f"{STEM}.safetensors", old)
    assert_same(BlipDiffusion.from_pretrained(public), model)


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        (
            f"unet/{STEM}",
            lambda s: s.pop("conv_in.weight"),
            "unet does not fit its config: missing keys conv_in.weight",
        ),
        ("qformer/model", lambda s: s.pop("query_tokens"), "missing keys query_tokens"),
        ("text_encoder/model", lambda s: s.update(extra=torch.zeros(1)), "unexpected keys extra"),
        (
            "qformer/model",
            lambda s: s.update({"encoder.spare": torch.zeros(1)}),
            "unexpected keys qformer.encoder.spare",
        ),
        (
            f"vae/{STEM}",
            lambda s: s.update({"encoder.conv_in.bias": torch.zeros(3)}),
            r"another shape encoder.conv_in.bias \(3,\) instead of \(16,\)",
        ),
    ],
)
def test_every_key_is_accounted_for(file, edit, message, public):
    def edited(state: dict[str, Tensor]) -> None:
        edit(state)

    change(public / f"{file}.safetensors", edited)
    with pytest.raises(InputError, match=message) as caught:
        BlipDiffusion.from_pretrained(public)
    assert "\n" not in str(caught.value)


def test_position_ids_may_be_there_or_not(public: Path, model: BlipDiffusion) -> None:
    for part in ("qformer", "text_encoder"):
        change(
            public / part / "model.safetensors",
            lambda state: {k: v for k, v in state.items() if not k.endswith("position_ids")},
        )
    assert_same(BlipDiffusion.from_pretrained(public), model)


class Bomb:
    """Unpickled without care, it would leave a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("make", ["zip", "plain"])
def test_a_pickle_bomb_is_one_line_and_does_nothing(make, public, tmp_path, capsys):
    target, path = tmp_path / "exploded", public / "unet" / f"{STEM}.bin"
    (public / "unet" / f"{STEM}.safetensors").unlink()
    bomb = {"conv_in.weight": Bomb(target)}
    torch.save(bomb, path) if make == "zip" else path.write_bytes(pickle.dumps(bomb))
    assert cli.main(["generate", "--model", str(public), "--prompt", "a dog", "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "holds more than tensors" in err
    assert not target.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut off", pickle.dumps([1, 2]), b"\x80\x04."])
def test_a_damaged_pickle_is_one_line(content: bytes, public: Path) -> None:
    (public / "vae" / f"{STEM}.safetensors").unlink()
    (public / "vae" / f"{STEM}.bin").write_bytes(content)
    with pytest.raises(InputError, match=r"vae/.*bin") as caught:
        BlipDiffusion.from_pretrained(public)
    assert "\n" not in str(caught.value)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def setting(name: str, key: str, value: object) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | {key: value}))


def quantise(folder: Path) -> None:
    path = folder / f"unet/{STEM}.safetensors"
    change(path, lambda state: {name: value.to(torch.int8) for name, value in state.items()})


def outside(folder: Path) -> None:
    remove(f"unet/{STEM}.safetensors")(folder)
    index = {"weight_map": {"conv_in.weight": "../../../etc/passwd"}}
    (folder / "unet" / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("vae"), "the part vae/ is missing"),
        (remove(f"unet/{STEM}.safetensors"), "unet holds no weights"),
        (remove("unet/config.json"), "unet/config.json is missing"),
        (write("qformer/config.json", "{"), "qformer/config.json is not readable JSON"),
        (write(f"unet/{STEM}.safetensors", "short"), f"unet/{STEM}.safetensors cannot be read"),
        (write("scheduler/scheduler_config.json", '{"_class_name": "NoScheduler"}'), "is no scheduler of diffusers"),
        (write("tokenizer/tokenizer.json", "{"), "tokenizer in .* cannot be read"),
        (
            write("image_processor/preprocessor_config.json", '{"size": {"height": 8, "width": 8}}'),
            "takes 32 x 32 pixels",
        ),
        (setting("unet/config.json", "act_fn", "x"), r"unet cannot be read \(ValueError: .*act"),
        (setting("unet/config.json", "norm_eps", "x"), "unet/config.json has norm_eps 'x', where a number belongs"),
        (setting("vae/config.json", "norm_num_groups", 0), r"vae cannot be read \(ZeroDivisionError"),
        (
            setting(SCHEDULER, "beta_schedule", "x"),
            r"scheduler_config.json cannot be read \(NotImpl",
        ),
        (
            setting(SCHEDULER, "prediction_type", "x"),
            "the prediction_type 'x'; it can be epsilon",
        ),
        (setting(SCHEDULER, "trained_betas", [0.1]), "no noise schedule of 1000 timesteps"),
        (setting("image_processor/preprocessor_config.json", "resample", "x"), r"cannot be read \(ValueError"),
        (setting("model_index.json", "std", [1, 0, 1]), r"std \(1, 0, 1\) .*; use std above 0"),
        (quantise, r"unet holds whole numbers in place of weights \(.* is torch.int8\)"),
        (outside, "names a file outside its folder"),
        (remove("qformer_tokenizer"), "holds no BERT tokenizer.*--qformer-tokenizer"),
    ],
)
def test_a_damaged_folder_is_one_line(damage: Callable[[Path], object], message: str, public: Path) -> None:
    damage(public)
    with pytest.raises(InputError, match=message) as caught:
        BlipDiffusion.from_pretrained(public, local_files_only=True)
    assert "\n" not in str(caught.value)


def test_a_bert_tokenizer_of_ones_own(public: Path, model: BlipDiffusion, tmp_path: Path) -> None:
    own = tmp_path / "bert"
    own.mkdir()
    shutil.move(public / "qformer_tokenizer" / "vocab.txt", own / "vocab.txt")
    shutil.rmtree(public / "qformer_tokenizer")
    loaded = BlipDiffusion.from_pretrained(public, qformer_tokenizer=own)
    assert loaded.qformer_tokenizer.bos_token == "[DEC]"
    assert len(loaded.qformer_tokenizer) == loaded.multimodal_encoder.qformer.config.vocab_size
    assert loaded.qformer_tokenizer("a Dog").input_ids == model.qformer_tokenizer("a dog").input_ids
    with pytest.raises(InputError, match="nowhere is not a folder"):
        BlipDiffusion.from_pretrained(public, qformer_tokenizer=tmp_path / "nowhere")
    (own / "vocab.txt").write_text((own / "vocab.txt").read_text() + "onemore\n")
    with pytest.warns(UserWarning, match="not the one that the weights were trained with"):
        loaded = BlipDiffusion.from_pretrained(public, qformer_tokenizer=own)
    with pytest.raises(InputError, match="does not know"):
        loaded.encode_subject(Image.new("RGB", (8, 8)), "[DEC] onemore")


def test_a_hub_id_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="'salesforce/blipdiffusion' is no folder here, not in the Hugging Face cache"):
        BlipDiffusion.from_pretrained("salesforce/blipdiffusion", local_files_only=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert cli.main(["generate", "--model", "no-one/nothing", "--prompt", "a dog", "--out", "out"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_cache_serves_offline(tiny_folders, tmp_path, monkeypatch):
    import huggingface_hub.constants

    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_folders["diffusers"], snapshot)
    (tmp_path / "models--someone--tiny" / "refs").mkdir()
    (tmp_path / "models--someone--tiny" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = BlipDiffusion.from_pretrained("someone/tiny", local_files_only=True)
    assert loaded.source == "someone/tiny"
    assert checkpoint_hash("someone/tiny") == checkpoint_hash(tiny_folders["diffusers"])


def test_parts_that_stage_2_should_have_changed_are_warned_of(tiny_folders: dict[str, Path], public: Path) -> None:
    (public / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.warns(UserWarning, match="unet and text_encoder of .* are those of the plain base model"):
        BlipDiffusion.from_pretrained(tiny_folders["diffusers"], base=public)

    def trained(state: dict[str, Tensor]) -> None:
        state["conv_in.bias"] += 1e-3

    change(public / "unet" / f"{STEM}.safetensors", trained)
    change(
        public / "text_encoder" / "model.safetensors",
        lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    )
    with pytest.warns(UserWarning, match="text_encoder of") as caught:  # half precision is no training
        BlipDiffusion.from_pretrained(tiny_folders["diffusers"], base=public)
    assert "unet" not in str(caught[0].message)


def test_a_trained_checkpoint_is_not_warned_of(tiny_folders: dict[str, Path], public: Path) -> None:
    for path in (public / "unet" / f"{STEM}.safetensors", public / "text_encoder" / "model.safetensors"):
        change(path, lambda state: {k: v * 1.001 if v.is_floating_point() else v for k, v in state.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BlipDiffusion.from_pretrained(tiny_folders["diffusers"], base=public)


def test_a_plain_stable_diffusion_is_told_from_ours(public: Path) -> None:
    (public / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(InputError, match="has no subject encoder"):
        BlipDiffusion.from_pretrained(public)


def test_other_sizes_and_a_text_encoder_without_prefix(public: Path, model: BlipDiffusion) -> None:
    state = model.text_encoder.model.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, public / "text_encoder" / "model.safetensors")
    assert set(text_to_file(state)) - {"text_model.embeddings.position_ids"} == {f"text_model.{k}" for k in state}
    loaded = BlipDiffusion.from_pretrained(public)
    assert_same(loaded, model)
    assert loaded.resolution == 32
    assert (loaded.defaults.prompt_reps, loaded.conventions.template) == (20, "public")
    assert np.allclose(loaded.conventions.pixels.mean, (0.48145466, 0.4578275, 0.40821073))


def test_only_what_is_needed_is_fetched() -> None:
    listing = [
        *("README.md", "model_index.json", "controlnet/config.json", "controlnet/diffusion_pytorch_model.safetensors"),
        *("image_processor/preprocessor_config.json", "qformer/config.json", "qformer/pytorch_model.bin"),
        *("scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors"),
        *("tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"),
        *("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors"),
        *("unet/diffusion_pytorch_model.non_ema.safetensors", "vision_encoder/model.safetensors"),
    ]
    patterns = [*hub.CONFIG_PATTERNS, *hub.SAFE_PATTERNS]
    chosen = filter_repo_objects(listing, allow_patterns=patterns, ignore_patterns=list(hub.SKIPPED))
    assert list(chosen) == [
        *("model_index.json", "image_processor/preprocessor_config.json", "qformer/config.json"),
        *("scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors"),
        *("tokenizer/merges.txt", "tokenizer/vocab.json", "unet/config.json"),
        "unet/diffusion_pytorch_model.safetensors",
    ]
