"""Model folders: exact, readable by the stock libraries, and never half-written or silently wrong."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, PNDMScheduler, UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from bdkit.checkpoints.files import new_folder
from bdkit.checkpoints.load import PARTS, RECORD, checkpoint_hash
from bdkit.checkpoints.save import save_blip_diffusion
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

WEIGHTS = "diffusion_pytorch_model.safetensors"
CALL = {"target_subject": "dog", "seeds": [3], "num_inference_steps": 2, "output_type": "np"}


@pytest.fixture(scope="module")
def model() -> BlipDiffusion:
    return tiny_model()


@pytest.fixture(scope="module")
def saved(model: BlipDiffusion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save_pretrained(tmp_path_factory.mktemp("models") / "saved")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A folder that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same_weights(ours: BlipDiffusion, theirs: BlipDiffusion, *, half: bool = False) -> None:
    left, right = ours.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value.half().float() if half else value, right[key]), key


def test_saving_and_loading_keeps_every_bit(model: BlipDiffusion, saved: Path) -> None:
    loaded = BlipDiffusion.from_pretrained(saved)
    assert_same_weights(model, loaded)
    assert loaded.defaults == model.defaults
    settings = [{k: v for k, v in m.scheduler.config.items() if k[0] != "_"} for m in (model, loaded)]
    assert settings[0] == settings[1]
    assert loaded.source == str(saved)
    assert loaded.tokenizer("a dog").input_ids == model.tokenizer("a dog").input_ids
    assert loaded.qformer_tokenizer("a dog").input_ids == model.qformer_tokenizer("a dog").input_ids
    assert np.abs(loaded("a {} on the beach", **CALL) - model("a {} on the beach", **CALL)).max() <= 1.01 / 255


def test_half_precision_on_disk_is_float32_in_memory(model: BlipDiffusion, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "half", torch.float16)
    loaded = BlipDiffusion.from_pretrained(folder)
    assert_same_weights(model, loaded, half=True)
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            kinds = {file.get_tensor(key).dtype for key in file.keys() if "position_ids" not in key}  # noqa: SIM118
        assert kinds == {torch.float16}, path
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_stock_libraries_read_each_part(model: BlipDiffusion, saved: Path) -> None:
    parts = {
        "vae": AutoencoderTiny.from_pretrained(saved / "vae", local_files_only=True),
        "unet": UNet2DConditionModel.from_pretrained(saved, subfolder="unet", local_files_only=True),
        "text_encoder": CLIPTextModel.from_pretrained(saved / "text_encoder", local_files_only=True),
    }
    ours = {"vae": model.vae, "unet": model.unet, "text_encoder": model.text_encoder.model}
    for name, part in parts.items():
        state = part.state_dict()
        assert state.keys() == ours[name].state_dict().keys()
        assert all(torch.equal(state[k], v) for k, v in ours[name].state_dict().items())
    tokenizer = CLIPTokenizer.from_pretrained(saved / "tokenizer", local_files_only=True)
    text = "a purple dog in the snow, zebra"
    assert tokenizer(text).input_ids == model.tokenizer(text).input_ids
    scheduler = PNDMScheduler.from_pretrained(saved / "scheduler", local_files_only=True)
    assert scheduler.config.skip_prk_steps
    assert scheduler.config.beta_end == 0.012
    index = json.loads((saved / "model_index.json").read_text())
    assert set(PARTS) <= index.keys()
    assert not [p for p in saved.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_the_cached_subject_is_saved_with_its_class(model: BlipDiffusion, tmp_path: Path) -> None:
    model = tiny_model(1)
    model.subject_embeddings, model.subject_class = torch.randn(1, 4, 32), "vase"
    loaded = BlipDiffusion.from_pretrained(model.save_pretrained(tmp_path / "subject"))
    assert torch.equal(loaded.subject_embeddings, model.subject_embeddings)
    assert loaded.subject_class == "vase"
    loaded.subject_embeddings = None
    again = loaded.save_pretrained(tmp_path / "without")
    assert BlipDiffusion.from_pretrained(again).subject_class is None


def flip_a_bit(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def replaced(name: str, text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(text)

    return damage


def change_qformer(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "qformer" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "qformer"), r"the part qformer/ is missing; fetch"),
        (flip_a_bit, r"unet/diffusion_pytorch_model.safetensors is damaged \(its SHA-256"),
        (replaced("text_encoder/model.safetensors", "short"), "text_encoder/model.safetensors is damaged"),
        (
            lambda folder: (folder / "vae" / WEIGHTS).unlink(),
            r"vae/diffusion_pytorch_model.safetensors is missing; fetch",
        ),
        (replaced(RECORD, "{"), r"bdkit.json is not readable JSON"),
        (replaced(RECORD, "{}"), r"bdkit.json is not the record of a bdkit model"),
        (replaced("vae/config.json", "{,"), r"vae/config.json is not readable JSON"),
        (replaced("unet/config.json", ""), r"unet/config.json is not readable JSON"),
        (replaced("qformer/config.json", "[1"), r"qformer/config.json is not readable JSON"),
        (replaced("qformer/config.json", '{"colour": 1}'), r"cannot be read .*colour.*; fetch"),
        (change_qformer(output_scale=None), r"unexpected keys projection.output_norm.weight"),
        (replaced("text_encoder/config.json", "nonsense"), r"text_encoder/config.json is not readable JSON"),
        (replaced("tokenizer/tokenizer.json", "{"), r"tokenizer in .* cannot be read .*; fetch"),
        (replaced("scheduler/scheduler_config.json", '{"_class_name": "NoScheduler"}'), "is no scheduler of diffusers"),
        (lambda folder: (folder / RECORD).unlink(), r"is not a bdkit model: bdkit.json is missing"),
    ],
)
def test_a_damaged_folder_is_one_line(damage: Callable[[Path], object], message: str, copy: Path) -> None:
    damage(copy)
    with pytest.raises(InputError, match=message) as caught:
        BlipDiffusion.from_pretrained(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-model", "some/where/else"])
def test_an_unknown_name_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match=f"no model at '{name}'; give a folder, or one of the shipped") as caught:
        BlipDiffusion.from_pretrained(name)
    assert "\n" not in str(caught.value)


def test_parts_come_from_another_folder(model: BlipDiffusion, copy: Path) -> None:
    other = tiny_model(5)
    base = save_blip_diffusion(other, copy.parent / "base", only=("unet", "text_encoder"), parts_from="../copy")
    assert not (base / "vae").exists()
    loaded = BlipDiffusion.from_pretrained(base)
    assert torch.equal(loaded.unet.conv_in.weight, other.unet.conv_in.weight)
    assert torch.equal(loaded.vae.encoder.layers[0].weight, model.vae.encoder.layers[0].weight)
    flip_a_bit(copy)  # a part that is not borrowed
    BlipDiffusion.from_pretrained(base)
    path = copy / "qformer" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\1\0")
    with pytest.raises(InputError, match=r"copy/qformer/model.safetensors is damaged"):
        BlipDiffusion.from_pretrained(base)
    shutil.rmtree(copy)
    with pytest.raises(InputError, match=r"the parts vae/, .* are missing"):
        BlipDiffusion.from_pretrained(base)


def test_the_hash_names_the_weights_and_the_folder_no_place(saved: Path, model: BlipDiffusion, tmp_path: Path) -> None:
    assert checkpoint_hash(saved) == checkpoint_hash(model.save_pretrained(tmp_path / "again"))
    assert checkpoint_hash(saved) != checkpoint_hash(tiny_model(1).save_pretrained(tmp_path / "other"))
    assert len(checkpoint_hash(saved)) == 12
    first = tiny_model().save_pretrained(tmp_path / "first")
    second = BlipDiffusion.from_pretrained(first).save_pretrained(tmp_path / "second")
    texts = [path.read_text() for path in second.rglob("*.json")]
    assert texts
    assert not [text for text in texts if str(tmp_path) in text]


class FullDisk:
    """In place of a tokenizer, so that saving fails when half of the parts are written."""

    def save_pretrained(self, folder: Path) -> None:
        assert (folder.parent / "unet").exists()
        raise OSError(28, "No space left on device")


def test_a_failed_save_keeps_the_old_folder(copy: Path) -> None:
    before, model = contents(copy), tiny_model(2)
    model.tokenizer = FullDisk()
    for target in (copy, copy.parent / "new"):
        with pytest.raises(OSError, match="No space left"):
            model.save_pretrained(target)
    assert contents(copy) == before
    assert list(copy.parent.iterdir()) == [copy]


def killed(target: Callable[[Path], None], folder: Path) -> bool:
    process = multiprocessing.get_context("fork").Process(target=target, args=(folder,))
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _write_and_die(folder: Path) -> None:
    with new_folder(folder) as temporary:
        (temporary / "half.json").write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_save_keeps_the_old_folder(copy: Path) -> None:
    before = contents(copy)
    assert killed(_write_and_die, copy)
    assert contents(copy) == before
    BlipDiffusion.from_pretrained(copy)


def _replace_and_die_between(folder: Path) -> None:
    rename = Path.rename

    def die_after_the_first(self: Path, target: Path) -> Path:
        rename(self, target)
        os.kill(os.getpid(), signal.SIGKILL)
        return target

    Path.rename = die_after_the_first  # type: ignore[method-assign]
    with new_folder(folder) as temporary:
        (temporary / "new.json").write_text("{}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("then", ["read", "write"])
def test_a_save_killed_between_its_renames_is_recovered(copy: Path, then: str) -> None:
    before = contents(copy)
    assert killed(_replace_and_die_between, copy)
    assert not copy.exists()
    assert sorted(path.suffix for path in copy.parent.iterdir()) == [".old", ".tmp"]
    if then == "read":
        BlipDiffusion.from_pretrained(copy)
    else:
        with pytest.raises(KeyError), new_folder(copy):
            raise KeyError
    assert contents(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_saving_over_an_old_folder_replaces_all_of_it(copy: Path) -> None:
    (copy / "left over.txt").write_text("old")
    model = tiny_model(4)
    model.save_pretrained(copy)
    assert not (copy / "left over.txt").exists()
    assert_same_weights(model, BlipDiffusion.from_pretrained(copy))
    assert list(copy.parent.iterdir()) == [copy]
