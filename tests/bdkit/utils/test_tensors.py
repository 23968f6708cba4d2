"""Files of tensors: read whatever wrote them, without running code; what is none is named for what it is."""

import argparse
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bdkit.utils.errors import InputError
from bdkit.utils.tensors import read_content, read_metadata, read_tensors

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "it is a git-lfs pointer.*run `git lfs pull`"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "it is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a server's message"),
        (b'{"error": "gated"}', "it is JSON text"),
        (b"GGUF\x03\x00\x00\x00", "it is a GGUF file"),
        (b"Entry not found", "text that begins 'Entry not found'"),
        (b"", "it is empty; fetch"),
        (b"\x80\x04.", "holds more than tensors|cannot be read"),
    ],
)
def test_what_is_no_file_of_weights_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            read_tensors(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_download_that_was_cut_off_is_told(keep: float, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(5000)}, tmp_path / "whole.safetensors")
    torch.save({"a": torch.zeros(5000)}, tmp_path / "whole.bin")
    for name in ("whole.safetensors", "whole.bin"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut {name}").write_bytes(data[: int(len(data) * keep)])
        with pytest.raises(InputError, match="it is cut off"):
            read_tensors(tmp_path / f"cut {name}")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_marks_of_compiled_and_parallel_models_are_taken_off(prefix: str, tmp_path: Path) -> None:
    save_file({f"{prefix}{name}": value for name, value in STATE.items()}, tmp_path / "model.safetensors")
    read = read_tensors(tmp_path / "model.safetensors")
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[name], value) for name, value in STATE.items())


def test_a_compiled_part_inside_of_a_model(tmp_path: Path) -> None:
    save_file({"encoder._orig_mod.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "model.safetensors")
    assert set(read_tensors(tmp_path / "model.safetensors")) == {"encoder.a", "b"}


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.ckpt", metadata={"format": "pt"})
    torch.save(STATE, tmp_path / "model.safetensors")
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("model.ckpt", "model.safetensors", "old.pt"):
        assert set(read_tensors(tmp_path / name)) == set(STATE)
    assert read_metadata(tmp_path / "model.ckpt") == {"format": "pt"}
    assert read_metadata(tmp_path / "old.pt") == {}


def test_training_checkpoints_are_read_without_what_else_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v1-5-pruned.ckpt names a class of Lightning, DINO's checkpoint an argparse.Namespace: neither is imported."""
    names = ("pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint")
    with monkeypatch.context() as context:
        for name in names:
            context.setitem(sys.modules, name, types.ModuleType(name))
        checkpoint = type("ModelCheckpoint", (), {"__module__": names[-1]})
        sys.modules[names[-1]].ModelCheckpoint = checkpoint  # type: ignore[attr-defined]
        content = {"callbacks": {checkpoint: {"best": checkpoint()}}, "state_dict": STATE, "epoch": 4}
        torch.save(content, tmp_path / "v1-5-pruned.ckpt")
    assert set(read_tensors(tmp_path / "v1-5-pruned.ckpt")) == set(STATE)
    torch.save({"teacher": STATE, "args": argparse.Namespace(arch="vit_small")}, tmp_path / "dino.pth")
    assert set(read_content(tmp_path / "dino.pth")["teacher"]) == set(STATE)


def test_what_could_run_code_is_not_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    torch.save({"state_dict": STATE, "args": Bomb()}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match="it is not read, as it could run code"):
        read_tensors(tmp_path / "model.ckpt")
    assert not (tmp_path / "exploded").exists()
