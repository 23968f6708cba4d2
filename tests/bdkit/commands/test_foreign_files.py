"""`bdkit generate`, `finetune` and `convert` with files that other programs wrote."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

from bdkit import cli
from bdkit.testing.tiny_checkpoints import public_tiny_model
from bdkit.utils.images import read_image

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from foreign_files import ldm_state, random_loras, save_kohya_lora, stable_diffusion

Arguments = Callable[..., list[str]]
Call = Callable[..., str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stable_diffusion(public_tiny_model(), tmp_path_factory.mktemp("plain") / "sd")


@pytest.fixture(scope="module")
def files(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LoRA, a learned word and a whole Stable Diffusion, a file each."""
    folder = tmp_path_factory.mktemp("files")
    names = {"lora": "style.safetensors", "word": "mytoy.safetensors", "model": "v1-5-pruned.ckpt"}
    paths = {kind: folder / name for kind, name in names.items()}
    save_kohya_lora(random_loras(base), paths["lora"], 6.0)
    save_file({"emb_params": torch.randn(2, 128)}, paths["word"])
    torch.save({"state_dict": ldm_state(public_tiny_model())}, paths["model"])
    return paths


def pixels(folder: Path) -> np.ndarray:
    return np.asarray(Image.open(folder / "00000.png"))


@pytest.mark.parametrize("kind", ["lora", "word", "model"])
def test_a_file_and_what_convert_makes_of_it_draw_the_same(
    kind: str, base: Path, files: dict[str, Path], tmp_path: Path, generate: Arguments, run: Call
) -> None:
    prompt = ("--prompt", "a mytoy dog in the snow" if kind == "word" else "a dog in the snow")
    run(*generate("--model", files[kind], "--base", base, *prompt, out=tmp_path / "file"))
    record = json.loads((tmp_path / "file" / "run.json").read_text())
    assert ("base_checkpoint" in record) == (kind != "model")
    assert run("convert", files[kind], tmp_path / "whole", "--base", base).count("\n") == 1
    run(*generate("--model", tmp_path / "whole", *prompt, out=tmp_path / "folder"))
    assert np.array_equal(pixels(tmp_path / "file"), pixels(tmp_path / "folder"))
    run(*generate("--model", base, *prompt, out=tmp_path / "plain"))
    assert np.array_equal(pixels(tmp_path / "file"), pixels(tmp_path / "plain")) == (kind == "model")
    StableDiffusionPipeline.from_pretrained(tmp_path / "whole", local_files_only=True)


def test_the_place_of_a_prompt_takes_the_learned_word(
    base: Path, files: dict[str, Path], tmp_path: Path, generate: Arguments, run: Call
) -> None:
    flags = ("--model", files["word"], "--base", base)
    run(*generate(*flags, "--subject", "dog", out=tmp_path / "noun"))
    run(*generate(*flags, "--prompt", "a mytoy dog in the snow", out=tmp_path / "written"))
    assert np.array_equal(pixels(tmp_path / "noun"), pixels(tmp_path / "written"))
    run(*generate(*flags, out=tmp_path / "place"))
    run(*generate(*flags, "--prompt", "a mytoy in the snow", out=tmp_path / "alone"))
    assert np.array_equal(pixels(tmp_path / "place"), pixels(tmp_path / "alone"))
    assert not np.array_equal(pixels(tmp_path / "place"), pixels(tmp_path / "noun"))


@pytest.mark.parametrize("kind", ["lora", "model"])
def test_fine_tuning_starts_from_a_file(
    kind: str, base: Path, files: dict[str, Path], tmp_path: Path, finetune: Arguments, generate: Arguments, run: Call
) -> None:
    here = tmp_path / files[kind].name
    shutil.copy(files[kind], here)
    flags = ("--model", here, "--base", base, "--method", "textual-inversion", "--preset", "public")
    run(*finetune(*flags, "--batch-size", 1, "--gradient-accumulation-steps", 1))
    mine = tmp_path / "mine"
    settings = json.loads((mine / "finetuned.json").read_text())
    assert settings["trained_on"]["model"] == f"../{here.name}"
    assert ("+" in settings["checkpoint"]) == (kind == "lora")
    run(*generate("--model", mine, out=tmp_path / "drawn"))  # finds the file, and what goes below it, again
    assert read_image(tmp_path / "drawn" / "00000.png").size == (32, 32)


def test_what_such_a_file_cannot_do_is_one_line(
    base: Path, files: dict[str, Path], tmp_path: Path, generate: Arguments, finetune: Arguments, refused: Call
) -> None:
    out = tmp_path / "out"
    assert "which goes on top of a model; name that model with base= or --base" in refused(
        *generate("--model", files["lora"], "--prompt", "a dog", out=out)
    )
    assert "a plain Stable Diffusion, without a subject encoder; use --to diffusers" in refused(
        "convert", files["model"], out, "--base", base, "--to", "lavis"
    )
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "it is a git-lfs pointer" in refused(*generate("--model", pointer, "--prompt", "a dog", out=out))
    (tmp_path / "notes.txt").write_text("buy milk")
    line = refused(*generate("--model", tmp_path / "notes.txt", "--prompt", "a dog", out=out))
    assert "text that begins 'buy milk'" in line
    folder = tmp_path / "downloads"
    shutil.copytree(files["lora"].parent, folder)
    line = refused(*generate("--model", folder, "--prompt", "a dog", out=out))
    assert "it holds mytoy.safetensors, style.safetensors, v1-5-pruned.ckpt: name the file itself" in line
    state = {key: value for key, value in ldm_state(public_tiny_model()).items() if "first_stage" not in key}
    save_file(state, tmp_path / "no-vae.safetensors")
    line = refused(*generate("--model", tmp_path / "no-vae.safetensors", "--base", base, "--prompt", "a dog", out=out))
    assert "holds no vae; give a checkpoint with all parts" in line
    assert not out.exists()


def test_a_learned_word_that_the_prompt_lacks_is_told(
    base: Path, files: dict[str, Path], tmp_path: Path, generate: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model", files["word"], "--base", base, "--prompt", "a dog")
    assert cli.main(generate(*flags, out=tmp_path / "out")) == 0
    assert "warning: the prompt does not have the word 'mytoy'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("scheduler", "the part scheduler/ is missing"),
        ("tokenizer", "the part tokenizer/ is missing"),
        ("model_index.json", "holds vae, unet, text_encoder, tokenizer, scheduler, but no model_index.json"),
    ],
)
def test_what_a_folder_lacks_is_named(
    damage: str, message: str, base: Path, tmp_path: Path, generate: Arguments, refused: Call
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "sd"))
    shutil.rmtree(folder / damage) if (folder / damage).is_dir() else (folder / damage).unlink()
    assert message in refused(*generate("--model", folder, "--prompt", "a dog"))


def test_models_of_other_kinds_are_named(tmp_path: Path, generate: Arguments, refused: Call) -> None:
    (tmp_path / "flux" / "transformer").mkdir(parents=True)
    (tmp_path / "flux" / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "is a FluxPipeline; give a BLIP-Diffusion or a Stable Diffusion v1" in refused(
        *generate("--model", tmp_path / "flux", "--prompt", "a dog")
    )
