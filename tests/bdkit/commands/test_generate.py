"""`bdkit generate` on small untrained models: files, resuming, the record, checkpoints of others, structure control."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit import cli
from bdkit.checkpoints.formats.lavis_format import save_lavis
from bdkit.models.blip_diffusion import BlipDiffusion

Arguments = Callable[..., list[str]]
Call = Callable[..., str]


def pixels(folder: Path) -> np.ndarray:
    with Image.open(folder / "00000.png") as image:
        return np.asarray(image)


def test_a_fine_tuned_folder_holds_the_subject_and_draws_it(my_dog, tmp_path, generate, run):
    loaded = BlipDiffusion.from_pretrained(my_dog)
    assert loaded.subject_class == "dog"
    assert loaded.subject_embeddings is not None
    assert sorted(path.name for path in my_dog.parent.iterdir()) == ["my-dog"]
    flags = ["--guidance-scale", "1.5", "--scheduler", "DDIMScheduler", "--num-inference-steps", "3"]
    run(*generate("--model", my_dog, "--seeds", "0-1,7", *flags))
    names = ["00000.png", "00001.png", "00007.png", "run.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    with Image.open(tmp_path / "out" / "00007.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["seeds"], record["settings"]["guidance_scale"]) == ([0, 1, 7], 1.5)
    assert record["settings"]["scheduler"] == "DDIMScheduler"
    assert record["settings"]["prompt"] == "a {} in the snow"
    assert len(record["checkpoint"]) == 12
    assert record["libraries"]["torch"]


def test_a_stopped_generation_resumes_with_the_same_bytes(photos, tmp_path, generate, run):
    arguments = generate("--images", photos, "--subject", "dog", "--seeds", "0-4")
    run(*arguments)
    paths = sorted((tmp_path / "out").glob("*.png"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert len(before) == 5
    assert len({content for content, _ in before.values()}) == 5
    paths[1].unlink()
    run(*arguments)
    assert all(path.read_bytes() == content for path, (content, _) in before.items())
    kept = [path for path in paths if path.stat().st_mtime_ns == before[path][1]]
    assert kept == [paths[0], *paths[2:]]
    assert "already" in run(*arguments)


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_one_line_and_whole_images(my_dog, tmp_path, generate):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "bdkit.cli", *generate("--model", my_dog, "--seeds", "0-9999")]
    # A shell's background jobs, this test's among them, ignore Ctrl-C, and their children inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 120
    while not list(out.glob("0*.png")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "bdkit: stopped; run the same command again to resume"
    assert "Traceback" not in err
    assert [path for path in out.iterdir() if path.name.startswith(".")] == []
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            image.load()


def test_images_of_another_command_are_kept_unless_overwrite_is_given(my_dog, tmp_path, generate, run, refused):
    out = tmp_path / "out"
    run(*generate("--model", my_dog, "--seeds", "0-1"))
    first = (out / "00000.png").read_bytes()
    (out / "mine.png").write_bytes(first)
    other = generate("--model", my_dog, "--seeds", "0", "--guidance-scale", "9")
    assert "holds images of another command" in refused(*other)
    assert (out / "00000.png").read_bytes() == first
    run(*other, "--overwrite")
    assert (out / "00000.png").read_bytes() != first
    assert sorted(path.name for path in out.iterdir()) == ["00000.png", "mine.png", "run.json"]


def test_a_long_prompt_is_cut_with_a_warning(my_dog, generate, capsys):
    prompt = "a {} in the snow" + " and the jungle" * 20
    assert cli.main(generate("--model", my_dog, "--prompt", prompt)) == 0
    assert "is cut off" in capsys.readouterr().err


def test_a_public_folder_draws(public, photos, tmp_path, copied, run, refused):
    folder = copied(public)
    shutil.move(folder / "qformer_tokenizer", tmp_path / "bert")
    small = ("--num-inference-steps", "1", "--height", "16", "--width", "24", "--out", tmp_path / "out")
    subject = ("generate", "--model", folder, "--images", photos, "--subject", "dog", "--prompt", "in the snow", *small)
    assert "--qformer-tokenizer" in refused(*subject)
    flags = ("--qformer-tokenizer", tmp_path / "bert", "--dtype", "bfloat16", "--template", "paper")
    run(*subject, *flags, "--reference-weights", "2,1", "--seeds", "0-1")
    assert [Image.open(tmp_path / "out" / f"0000{k}.png").size for k in range(2)] == [(24, 16)] * 2
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["settings"]["template"], record["model"]["prompt_reps"]) == ("paper", 20)


def test_a_fine_tuned_lavis_folder_needs_the_class_word(public, photos, tmp_path, generate, run, refused):
    model = BlipDiffusion.from_pretrained(public)
    model.subject_embeddings = torch.randn(1, 16, 128, generator=torch.Generator().manual_seed(0))
    folder = save_lavis(model, tmp_path / "lavis")
    call = generate("--model", folder, "--height", "16", "--width", "16", "--num-inference-steps", "1")
    assert "name it with --subject" in refused(*call)
    assert "already holds a subject" in refused(*call, "--images", photos, "--subject", "dog")
    run(*call, "--subject", "dog")
    assert (tmp_path / "out" / "00000.png").exists()


def test_a_structure_is_kept_and_recorded_by_its_hash(controlnet, photos, tmp_path, generate, run, refused):
    plain = generate("--prompt", "a dog in the snow", out=tmp_path / "plain")
    first, second = (["--control", f"canny={photos / name}", "--controlnet", controlnet] for name in ("0.png", "1.png"))
    out = ["--out", tmp_path / "out"]
    run(*plain)
    run(*plain, *first, *out)
    run(*plain, *first, "--control-strength", "0", "--out", tmp_path / "weak")
    assert (pixels(tmp_path / "out") != pixels(tmp_path / "plain")).any()
    assert (pixels(tmp_path / "weak") == pixels(tmp_path / "plain")).all()
    text = (tmp_path / "out" / "run.json").read_text()
    assert str(photos) not in text
    record = json.loads(text)
    assert list(record["structures"]) == ["0: canny of 0.png"]
    assert record["settings"]["control_strength"] == [1.0]
    assert "already" in run(*plain, *first, *out)
    assert "another command" in refused(*plain, *second, *out)


def test_several_structures_and_ready_maps(controlnet, photos, tmp_path, generate, run):
    two = f"canny={photos / '0.png'},scribble={photos / '1.png'}"
    flags = ["--prompt", "a dog", "--control-strength", "1,0.5", "--control-ready", "--control-end", "1,0.6"]
    run(*generate(*flags, "--control", two, "--controlnet", f"{controlnet},{controlnet}", out=tmp_path / "two"))
    one = ["--control", two.split(",")[0], "--controlnet", controlnet, "--control-strength", 1, "--control-end", 1]
    run(*generate(*flags, *one, out=tmp_path / "one"))
    assert (pixels(tmp_path / "two") != pixels(tmp_path / "one")).any()


def test_a_models_own_controlnet_is_taken_for_edges(model, controlnet, photos, tmp_path, copied, generate, run):
    own = copied(model)
    shutil.copytree(controlnet, own / "controlnet")
    index = json.loads((own / "model_index.json").read_text())
    (own / "model_index.json").write_text(json.dumps({**index, "controlnet": ["diffusers", "ControlNetModel"]}))
    flags = ["--prompt", "a dog", "--control", f"canny={photos / '0.png'}"]
    run(*generate(*flags, "--model", own, out=tmp_path / "a"))
    run(*generate(*flags, "--controlnet", controlnet, out=tmp_path / "b"))
    assert (pixels(tmp_path / "a") == pixels(tmp_path / "b")).all()
