"""`bdkit finetune`: the folder it writes, its methods, and a killed fit that ends with an undisturbed one's bytes."""

import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bdkit import cli
from bdkit.checkpoints.load import checkpoint_hash
from bdkit.commands.finetune import TRAINED
from bdkit.methods import build_method
from bdkit.methods.dreambooth import DreamBooth
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.finetuning import Work
from bdkit.utils.images import read_images

Arguments = Callable[..., list[str]]
Call = Callable[..., str]
STEPS = 40
# Flags that not every method has
PRIOR = ["prior-loss-weight", "class-images", "guidance-scale", "scheduler", "negative-prompt"]
WORD = ["placeholder-token", "templates", "with-class-noun"]
NUMBERS = {
    "dreambooth": ["token", "train-text-encoder", *PRIOR],
    "dreambooth-lora": ["token", "rank", "alpha", "target-modules", *PRIOR],
    "textual-inversion": WORD,
    "custom-diffusion": ["initializer-token", *WORD, *PRIOR],
    "blip-diffusion": ["train-embedding"],
}
CHILDREN = multiprocessing.get_context("forkserver")  # imports once for all children
CHILDREN.set_forkserver_preload(["bdkit.commands.finetune", "bdkit.methods"])


def start(arguments: list[str]) -> multiprocessing.process.BaseProcess:
    child = CHILDREN.Process(target=cli.main, args=(arguments,))
    child.start()
    return child


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_named_after_the_subject_by_default(model, photos, tmp_path, monkeypatch, run, refused):
    monkeypatch.chdir(tmp_path)
    command = ("finetune", "--model", model, "--images", photos, "--subject", "dog", "--steps", 1)
    assert "--model my-dog" in run(*command, "--mixed-precision", "no")
    assert BlipDiffusion.from_pretrained(tmp_path / "my-dog").subject_class == "dog"
    assert "my-dog already holds something" in refused(*command)


@pytest.mark.parametrize(
    ("method", "file", "words"),
    [
        ("dreambooth", "unet/diffusion_pytorch_model.safetensors", "a sks dog in the snow"),
        ("dreambooth-lora", "pytorch_lora_weights.safetensors", "pipe.load_lora_weights"),
        ("textual-inversion", "learned_embeds.safetensors", "a <*> dog in the snow"),
        ("custom-diffusion", "pytorch_custom_diffusion_weights.safetensors", "pipe.unet.load_attn_procs"),
    ],
)
def test_the_other_methods(tmp_path, finetune, method, file, words, run):
    more = ("--class-images", 2) if method == "custom-diffusion" else ()
    assert words in run(*finetune("--method", method, "--steps", 1, *more))
    assert (tmp_path / "mine" / file).is_file()


def test_the_number_of_steps_may_come_from_the_images(tmp_path, finetune, run):
    shown = run(*finetune("--steps", "auto", "--batch-size", 1))
    record = json.loads((tmp_path / "mine" / "bdkit.json").read_text())["finetuned"]
    assert (record["steps"], record["step"]) == ("auto", int(re.search(r"Took (\d+) steps: the last 20", shown)[1]))
    assert record["stopping_reason"] in shown


def test_a_folder_is_kept_unless_overwrite_is_given(tmp_path, finetune, run, refused):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "already holds something" in refused(*finetune())
    assert (out / "mine.txt").read_text() == "mine"
    run(*finetune("--overwrite"))
    assert not (out / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["blip-diffusion", "dreambooth", "dreambooth-lora", "textual-inversion", "custom-diffusion"]
)
def test_a_killed_fit_resumes_and_ends_with_the_same_bytes(name, tmp_path, finetune, capsys):
    out, checkpoint = tmp_path / "mine", tmp_path / "mine" / ".fit" / "checkpoint.pt"
    flags = ["--method", name, "--steps", STEPS, "--learning-rate", 1e-3, "--checkpoint-seconds", 0]
    if name == "custom-diffusion":
        flags += ["--class-images", 2]
    child = start(finetune(*flags))
    deadline = time.monotonic() + 300
    while not checkpoint.exists() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    step = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < step < STEPS
    assert [path.name for path in out.iterdir()] == [".fit"]
    capsys.readouterr()
    assert cli.main(finetune(*flags)) == 0
    shown = re.search(rf"(\d+)/{STEPS}", capsys.readouterr().err)
    assert int(shown[1]) >= step, "it started from the first step"
    undisturbed = start(finetune(*flags, out=tmp_path / "other"))
    undisturbed.join()
    assert undisturbed.exitcode == 0
    ours, theirs = content(out), content(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    assert not [file for file in ours if ours[file] != theirs[file]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]


class Stopped(Exception):
    pass


def test_snapshots_and_images_of_the_class_survive_a_stop(photos, tmp_path):
    """Stopped amid the class's images, and again between two snapshots."""
    settings = {"steps": 6, "snapshots": (2, 4), "prior_loss_weight": 1.0, "class_images": 20, "preset": "mini"}

    def fitted(work: Work | None, stop_at: int = 10**6) -> dict[str, torch.Tensor]:
        model = tiny_model()
        method = build_method("dreambooth", model, start=None, **settings)  # type: ignore[arg-type]
        method.work = work  # type: ignore[attr-defined]
        left = [stop_at]

        def count(*_: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        for unet in (model.unet, method._unet):  # type: ignore[attr-defined]
            unet.register_forward_hook(count)
        method.fit(read_images(photos), "dog", 0)
        calls.append(stop_at - left[0])
        return method.state()

    calls: list[int] = []
    work = Work(folder=tmp_path, seconds=0)
    whole = fitted(None)
    drawing = calls[0] - 6 * 2  # a step looks at the subject and at the class
    with pytest.raises(Stopped):
        fitted(work, drawing - 1)
    assert len(list(tmp_path.glob("class-*.pt"))) == 2
    with pytest.raises(Stopped):
        fitted(work, drawing // 3 + 3 * 2)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3
    resumed = fitted(work)
    assert calls[-1] == 3 * 2
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_an_unfinished_fit_is_no_other_fits(tmp_path, finetune, run, refused):
    work = tmp_path / "mine" / ".fit"
    work.mkdir(parents=True)
    (work / "fit.json").write_text(json.dumps({"subject": "cat"}))
    (work / "checkpoint.pt").write_bytes(b"of another fit")
    assert "holds an unfinished fit with other images, settings or weights" in refused(*finetune())
    assert (work / "checkpoint.pt").read_bytes() == b"of another fit"
    run(*finetune("--overwrite"))
    assert not work.exists()


@pytest.mark.parametrize("name", TRAINED)
def test_help_shows_the_numbers_of_its_method_and_only_those(name, capsys):
    with pytest.raises(SystemExit):
        cli.main(["finetune", "--help", f"--method={name}"])
    shown = set(re.findall(r"--([a-z][a-z-]+)", capsys.readouterr().out.partition("examples:")[0]))
    assert shown & {flag for flags in NUMBERS.values() for flag in flags} == {*NUMBERS[name]}
    assert {"steps", "learning-rate", "batch-size", "mixed-precision"} <= shown
    assert not {"snapshots", "start", "prompt-reps"} & shown


def test_every_number_of_a_method_reaches_its_record(tmp_path, finetune, run):
    flags = {"--rank": 2, "--alpha": 3, "--token": "cat", "--target-modules": "to_q,to_v", "--batch-size": 1}
    class_flags = {"--prior-loss-weight": 0.5, "--class-images": 2, "--guidance-scale": 2, "--num-inference-steps": 1}
    given = [item for flag in {**flags, **class_flags}.items() for item in flag]
    assert "a cat dog in the snow" in run(*finetune("--method", "dreambooth-lora", *given))
    settings = json.loads((tmp_path / "mine" / "finetuned.json").read_text())
    assert (settings["rank"], settings["alpha"], settings["target_modules"]) == (2, 3.0, ["to_q", "to_v"])
    assert (settings["token"], settings["prior_loss_weight"], settings["class_images"]) == ("cat", 0.5, 2)
    assert (settings["guidance_scale"], settings["num_inference_steps"]) == (2.0, 1)
    weights = load_file(tmp_path / "mine" / "pytorch_lora_weights.safetensors")
    assert {tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name or "lora.down" in name} == {2}
    assert all("to_q" in name or "to_v" in name for name in weights)


@pytest.mark.parametrize("flags", [["--class-images", 0], ["--prior-loss-weight", 0]])
def test_the_images_of_the_class_can_be_turned_off(flags, finetune, run, monkeypatch, tmp_path):
    monkeypatch.setattr(DreamBooth, "_prior", lambda *_: pytest.fail("images of the class were made"))
    small = ["--preset", "public", "--method", "dreambooth", "--mixed-precision", "no"]
    run(*finetune(*small, *flags))
    settings = json.loads((tmp_path / "mine" / "bdkit.json").read_text())["finetuned"]
    assert settings["prior_loss_weight"] == 0.0


@pytest.mark.parametrize("name", ["dreambooth-lora", "textual-inversion"])
def test_the_model_that_the_user_names_is_the_one_that_is_trained(
    name: str, tmp_path: Path, finetune: Arguments, run: Call, copied: Callable[[Path], Path], model: Path
) -> None:
    """Not the one that the preset "mini" starts from: the shipped one, or one beside it."""
    named = copied(model).rename(tmp_path / "named")
    tiny_model(7).save_pretrained(tmp_path / "mini-base")
    run(*finetune("--model", named, "--method", name, "--steps", 1))
    record = json.loads((tmp_path / "mine" / "finetuned.json").read_text())
    assert record["trained_on"]["model"] == "../named"
    assert record["checkpoint"] == checkpoint_hash(named)
