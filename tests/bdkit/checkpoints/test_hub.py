"""What is fetched of a hub repository: a folder stands for it, as files lie there and in the cache."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from bdkit.checkpoints import hub, load
from bdkit.checkpoints.load import checkpoint_hash, read_files
from bdkit.editing.structure_control import load_controlnet
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_checkpoints import tiny_controlnet
from bdkit.utils.errors import InputError

STEM = "diffusion_pytorch_model"
FILES = {"vae": STEM, "unet": STEM, "text_encoder": "model", "qformer": "model"}


@pytest.fixture
def repository(public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for someone/tiny on the hub; what is fetched of it lies in tmp_path/cache."""

    def download(repo_id: str, *, allow_patterns: list[str], ignore_patterns: list[str], **_: object) -> str:
        assert repo_id == "someone/tiny"
        names = [path.relative_to(public).as_posix() for path in public.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(public / name, tmp_path / "cache" / name)
        return str(tmp_path / "cache")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", download)
    return public


def rename(folder: Path, new: Callable[[str], str], parts: dict[str, str] = FILES) -> None:
    for part, stem in parts.items():
        (folder / part / f"{stem}.safetensors").rename(folder / part / new(stem))


def fetched(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache" / "unet").iterdir() if p.suffix != ".json")


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
@pytest.mark.filterwarnings("ignore:.*holds only weights without EMA")
def test_a_repository_with_one_variant_alone_is_fetched(
    variant: str, repository: Path, model: BlipDiffusion, tmp_path: Path
) -> None:
    rename(repository, lambda stem: f"{stem}.{variant}.safetensors")
    loaded = BlipDiffusion.from_pretrained("someone/tiny")
    assert torch.equal(loaded.unet.conv_in.weight, model.unet.conv_in.weight)
    assert fetched(tmp_path) == [f"{STEM}.{variant}.safetensors"]


def test_half_precision_in_shards(repository: Path, model: BlipDiffusion, tmp_path: Path) -> None:
    path = repository / "unet" / f"{STEM}.safetensors"
    state = load_file(path)
    path.unlink()
    names = sorted(state)
    where = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{STEM}.fp16-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, path.with_name(file))
        where |= dict.fromkeys(part, file)
    index = path.with_name(f"{STEM}.safetensors.index.fp16.json")
    index.write_text(json.dumps({"weight_map": where}))
    loaded = BlipDiffusion.from_pretrained("someone/tiny")
    assert torch.equal(loaded.unet.conv_in.weight, model.unet.conv_in.weight)
    assert len(fetched(tmp_path)) == 2


def test_half_precision_only_where_there_is_nothing_else(repository: Path, tmp_path: Path) -> None:
    unet = repository / "unet"
    for name in ("fp16.safetensors", "non_ema.safetensors", "fp16.bin"):
        shutil.copy(unet / f"{STEM}.safetensors", unet / f"{STEM}.{name}")
    shutil.copy(unet / f"{STEM}.safetensors", unet / f"{STEM}.bin")
    BlipDiffusion.from_pretrained("someone/tiny")
    assert fetched(tmp_path) == [f"{STEM}.safetensors"]
    shutil.rmtree(tmp_path / "cache")
    (unet / f"{STEM}.safetensors").unlink()
    BlipDiffusion.from_pretrained("someone/tiny")
    assert fetched(tmp_path) == [f"{STEM}.bin"]


def test_a_learned_word_of_the_hub(repository: Path, tmp_path: Path) -> None:
    shutil.rmtree(repository)
    repository.mkdir()
    torch.save({"<toy>": torch.zeros(128)}, repository / "learned_embeds.bin")
    (repository / "README.md").write_text("a toy")
    assert read_files("someone/tiny") == [tmp_path / "cache" / "learned_embeds.bin"]


@pytest.mark.parametrize("place", ["", "controlnet"])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_a_controlnet_of_the_hub(place: str, variant: str, repository: Path) -> None:
    net = tiny_controlnet()
    net.save_pretrained(repository / place)
    (repository / place / f"{STEM}.safetensors").rename(repository / place / f"{STEM}{variant}.safetensors")
    loaded = load_controlnet("someone/tiny")
    assert torch.equal(loaded.conv_in.weight, net.conv_in.weight)


def test_a_controlnet_that_is_not_here_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(InputError, match="no ControlNet at 'lllyasviel/sd-controlnet-hed': ") as caught:
        load_controlnet("hed")
    assert "not in the Hugging Face cache" in str(caught.value)
    assert "give a folder, or run once with a network" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_what_is_read_is_hashed(public: Path, lavis: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that others trained holds checkpoints with optimizers and EMA weights: gigabytes that nobody reads."""
    hashed: list[Path] = []
    real = load.file_hash
    monkeypatch.setattr(load, "file_hash", lambda path: (hashed.append(Path(path)), real(path))[1])
    for folder in (public, lavis):
        before = checkpoint_hash(folder)
        for name in (
            *("checkpoint-500/optimizer.bin", "checkpoint-500/unet/diffusion_pytorch_model.safetensors", "ema.pt"),
            *("unet/diffusion_pytorch_model.non_ema.safetensors", "safety_checker/model.safetensors"),
            *("random_states.pt", "unet/optimizer.pt", "vision_encoder/pytorch_model.bin", "v1-5-pruned.safetensors"),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(name.encode())
        hashed.clear()
        assert checkpoint_hash(folder) == before
        assert {path.relative_to(folder).as_posix() for path in hashed}.isdisjoint({"ema.pt", "random_states.pt"})
        assert not any("checkpoint-500" in str(path) or "optimizer" in path.name for path in hashed)
        assert set(hashed) == set(read_files(folder))
    weights = public / "unet" / f"{STEM}.safetensors"
    state = load_file(weights)
    state["conv_in.bias"] += 1
    save_file(state, weights)
    before = checkpoint_hash(public)
    assert before != checkpoint_hash(lavis)
    net = tiny_controlnet()
    net.save_pretrained(public / "controlnet")
    assert checkpoint_hash(public) == before  # not named by the index, so not used
    index = json.loads((public / "model_index.json").read_text())
    (public / "model_index.json").write_text(json.dumps({**index, "controlnet": ["diffusers", "ControlNetModel"]}))
    assert checkpoint_hash(public) != before
