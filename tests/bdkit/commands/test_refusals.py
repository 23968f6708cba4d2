"""What a user can get wrong: one line that says what to do, exit code 2, nothing written. One table a command."""

import re

import pytest
from PIL import Image

from bdkit import cli

SUBJECT = ["--images", "{photos}", "--subject", "dog"]
CANNY = ["--control", "canny={photos}/0.png"]
GENERATE = [
    (["--seeds", "3-1"], "runs backwards"),
    (["--prompt", " "], "the prompt is empty"),
    (["--prompt", "a dog", "--model", "maxi"], "no model at 'maxi'"),
    (["--images", "nowhere"], "nowhere is not a folder"),
    (["--images", "{photos}", "--subject", "unicorn"], "does not know the class word 'unicorn'; it knows backpack"),
    (["--images", "{photos}"], "--images needs --subject"),
    ([], "the prompt has a place for a subject"),
    ([*SUBJECT, "--scheduler", "Nice"], "no scheduler 'Nice'"),
    ([*SUBJECT, "--num-inference-steps", "0"], "num_inference_steps is 0"),
    ([*SUBJECT, "--prompt", "{} and {}"], "2 places for a subject"),
    ([*SUBJECT, "--reference-weights", "1"], "2 reference images but 1 weights"),
    (["--model", "{my_dog}", *SUBJECT], "already holds a subject (dog)"),
    (["--model", "{my_dog}", "--subject", "cat"], "holds a dog, not a cat"),
    ([*SUBJECT, "--control", "canny"], "names no image; write it like canny=photo.jpg"),
    ([*SUBJECT, "--control", "pose=x.png"], "unknown structure 'pose'; known are canny, depth, hed, scribble"),
    ([*SUBJECT, "--control", "canny=no-such.png"], "there is no file no-such.png"),
    ([*SUBJECT, *CANNY, "--controlnet", "a,b"], "2 --controlnet for 1 --control"),
    ([*SUBJECT, *CANNY, "--controlnet", "no-such-net"], "no ControlNet at 'no-such-net'"),
    ([*SUBJECT, *CANNY, "--controlnet", "{controlnet}", "--control-start", "1"], "from 1.0 to 1.0"),
    (["--prompt", "a dog", "--guidance-scale", "nan"], "'nan' is not a finite number"),
    (["--prompt", "a dog", "--guidance-scale=-1"], "guidance_scale is -1.0"),
    (["--prompt", "a dog", "--control-strength", "1"], "--control-strength needs --control"),
    (
        ["--prompt", "a dog", "--control-ready", "--control-end", "1"],
        "--control-end and --control-ready need",
    ),
    (["--prompt", "a dog", "--reference-weights", "1"], "--reference-weights needs --images"),
    (["--prompt", "a dog", "--subject", ""], "the class word is empty"),
    ([*SUBJECT, "--target-subject", " "], "the class word is empty"),
    ([*SUBJECT, "--prompt", "a {0} in the snow"], "has a brace that means nothing; write {} where the subject goes"),
    ([*SUBJECT, "--prompt", "a {subject}"], "has a brace that means nothing"),
    ([*SUBJECT, "--prompt", "a {} in {the snow"], "has a brace that means nothing"),
    (["--prompt", "a dog", "--negative-prompt", "a { cat"], "has a brace that means nothing"),
    (["--prompt", "a dog", "--scheduler", "VQDiffusionScheduler"], "use DDIMScheduler, DDPMScheduler, PNDMScheduler"),
    (["--prompt", "a dog", "--scheduler", "EulerDiscreteScheduler", "--num-inference-steps", "1"], "at least 2"),
    (["--prompt", "a dog", "--num-inference-steps", "1001"], "num_inference_steps is 1001; use 1 to 1000"),
    (["--prompt", "a dog", "--height=-8"], "height is -8; use at least 1"),
    (["--prompt", "a dog", "--width", "4000000000"], "must be multiples of 4, from 4 to"),
    ([*SUBJECT, "--out", "{photos}"], "is the folder of the images that are read"),
    ([*SUBJECT, "--out", ""], "the path is empty"),
    ([*SUBJECT, "--model", ""], "--model is empty"),
    (["--prompt", "a dog", "--template", "paper"], "--template places a subject's vectors, and there are none"),
    (["--steps", "3"], "unrecognized arguments: --steps 3; did you mean --num-inference-steps? See 'bdkit generate"),
    (["--gidance-scale", "3"], "did you mean --guidance-scale"),
    ([*SUBJECT, "--base", " "], "--base is empty"),
]
FINETUNE = [
    (["--images", "nowhere"], "nowhere is not a folder"),
    (["--subject", "unicorn"], "does not know the class word 'unicorn'"),
    (["--preset", "best"], "unknown preset 'best'"),
    (["--steps", "-1"], "steps is -1"),
    (["--steps", "autom"], "invalid int or auto value: 'autom'"),
    (["--method", "dreambooth", "--steps", "auto"], "steps is 'auto', which is of blip-diffusion alone; give a number"),
    (["--learning-rate", "fast"], "--learning-rate"),
    (["--learning-rate", "inf"], "'inf' is not a finite number"),
    (["--learning-rate=-1"], "learning_rate is -1.0"),
    (["--weight-decay", "nan"], "'nan' is not a finite number"),
    (["--max-grad-norm=-1"], "max_grad_norm is -1.0"),
    (["--seed=-1"], "seed is -1"),
    (["--seed", str(2**63)], "seed is 9223372036854775808"),
    (["--checkpoint-seconds=-1"], "checkpoint_seconds is -1.0"),
    (["--subject", " "], "the class word is empty"),
    (["--model", "{my_dog}"], "already holds a subject (dog)"),
    (["--method", "base"], "textual-inversion, dreambooth, dreambooth-lora, custom-diffusion, blip"),
    (["--method", "lora"], "'lora' cannot be fine-tuned; known are textual-inversion"),
    (["--method", "dreambooth", "--no-train-embedding"], "dreambooth has no --train-embedding"),
    (["--rank", "4"], "blip-diffusion has no --rank; leave it out, or use it with --method dreambooth-lora"),
    (["--method=dreambooth", "--rank=4"], "dreambooth has no --rank; leave it out, or use it with --method"),
    (["--method", "dreambooth-lora", "--train-text-encoder"], "dreambooth-lora has no --train-text-encoder"),
    (["--method", "textual-inversion", "--guidance-scale", "2"], "textual-inversion has no --guidance-scale"),
    (["--method", "dreambooth-lora", "--rank", "0"], "rank is 0"),
    (["--method", "dreambooth-lora", "--alpha", "0"], "alpha is 0.0"),
    (["--method", "dreambooth-lora", "--target-modules", "to_x"], "'to_x', which names no linear layers"),
    (["--method", "dreambooth-lora", "--target-modules", "conv1"], "'conv1', which names no linear layers"),
    (["--method", "dreambooth", "--token", ""], "token is ''"),
    (["--method", "dreambooth", "--token", "{}"], "token is '{}'"),
    (["--method", "textual-inversion", "--placeholder-token", " x"], "placeholder_token is ' x'"),
    (["--method", "textual-inversion", "--placeholder-token", "dog"], "'dog' is in the tokenizer already"),
    (["--method", "custom-diffusion", "--initializer-token", ""], "initializer_token is ''"),
    (["--method", "custom-diffusion", "--token", "x"], "custom-diffusion has no --token"),
    (["--method", "dreambooth", "--class-images", "5"], "--class-images: there are no images of the class"),
    (["--method", "dreambooth", "--class-images", "-1"], "-1 class_images"),
    (["--method", "dreambooth", "--scheduler", "DDIMScheduler"], "--scheduler: there are no images of the class"),
    (["--method", "dreambooth", "--class-images", "0", "--prior-loss-weight", "1"], "at least 1 image"),
]
CONVERT = [
    (["{public}", "out", "--to", "onnx"], "'onnx' is not one of bdkit, diffusers, lavis"),
    (["{public}", "out", "--subject", "dog"], "holds no fine-tuned subject"),
    (["{public}", "{public}", "--overwrite"], "is the checkpoint itself"),
    (["{public}", "{public}"], "already holds something"),
    (["mini", "out", "--to", "lavis"], "projection that the public"),
    (["mini", "out", "--to", "diffusers"], "projection that the public"),
    (["no-such-model", "out"], "no model at"),
    (["{public}"], "OUT"),
]
OTHERS = [
    ([], "COMMAND"),
    (["generat"], "invalid choice: 'generat'"),
    (["generate", "--prompt", "a {}"], "--out is missing"),
    (["finetune", "--subject", "dog", "--out", "out"], "--images is missing"),
    (["bench", "maxi"], "unknown suite 'maxi'; known are dreambench, dreambench-plus, mini"),
    (["bench", "mini@-1"], "unknown suite"),
    (["bench", "mini-quick", "--methods", "lora"], "unknown method 'lora'; known are base"),
    (["bench", "mini-quick", "--subjects", "0"], "leaves nothing to measure"),
    (["bench", "--shard", "4/3"], "'4/3' is no shard; write 1/3, 2/3 and 3/3 for the three parts"),
    (["bench", "--workers", "0"], "0 is too small"),
    (["bench", "mini-quick", "--seed-sets", "0,0"], "seed sets must be different"),
    (["bench", "mini-quick", "--seed-sets", "9999999999"], "from 0 to 999,999,999"),
    (["bench", "mini-quick", "--samples", "two"], "--samples"),
    (["bench", "mini-quick", "--protocol", "x"], "protocol 'x'"),
    (["bench", "mini", "--no-such-flag"], "--no-such-flag; see 'bdkit bench --help'"),
    (["score", "results"], "suite.json is missing"),
    (["table", "results"], "suite.json is missing"),
    (["world", "sheet", "--kind", "map"], "'map' is not one of world, individuals"),
    (["world", "sheet", "--split", "all"], "'all' is not one of train"),
    (["world", "sheet", "--columns", "0"], "--columns is 0"),
    (["fetch", "mini"], "'mini' is not one of dreambench"),
    (["fetch", "dreambench", "--base-url", "file:///etc"], "not an http or https address"),
    (["pretrain"], "WHAT"),
    (["pretrain", "stage3"], "unknown stage 'stage3'"),
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *((["GENERATE", *flags], words) for flags, words in GENERATE),
        *((["FINETUNE", *flags], words) for flags, words in FINETUNE),
        *((["convert", *flags], words) for flags, words in CONVERT),
        *OTHERS,
    ],
)
def test_a_wrong_value_is_refused(arguments, words, refused, fill, generate, finetune, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = {"GENERATE": generate, "FINETUNE": finetune}
    if arguments and arguments[0] in whole:
        arguments = whole[arguments[0]](*arguments[1:])
    assert words in refused(*fill(arguments))
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_nowhere_is_one_line(generate, refused, photos, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nothing").symlink_to("gone")
    for name in ("loop", "nothing"):
        line = refused(*generate("--images", photos, "--subject", "dog", "--out", tmp_path / name))
        assert f"{tmp_path / name} is a link that leads nowhere" in line


@pytest.mark.parametrize("command", ["generate", "finetune"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "no images in"),
        (lambda folder: (folder / "a.png").write_bytes(b"not an image"), "a.png is not a readable image"),
        (lambda folder: Image.new("RGB", (100, 10)).save(folder / "a.png"), "a.png is a strip of 100 x 10"),
    ],
)
def test_images_that_cannot_be_used_are_named(command, make, words, tmp_path, refused):
    folder = tmp_path / "photos"
    folder.mkdir()
    make(folder)
    prompt = ["--prompt", "a {}"] if command == "generate" else []
    out = tmp_path / "out"
    assert words in refused(command, "--images", folder, "--subject", "dog", "--out", out, *prompt)
    assert not out.exists()


def test_a_loss_that_is_not_finite_leaves_nothing(finetune, tmp_path, capsys):
    assert cli.main(finetune("--learning-rate", "1e30")) == 2
    assert "the loss is" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["unet", "qformer_tokenizer", "bdkit.json", "vae/diffusion_pytorch_model.safetensors"])
def test_a_missing_part_of_a_model_is_named(part, model, copied, generate, refused):
    folder = copied(model)
    (folder / part).rename(folder.with_name("taken away"))
    assert re.search(rf"{re.escape(part)}.* missing", refused(*generate("--model", folder, "--subject", "dog")))


def test_what_a_checkpoint_lacks_or_has_damaged_is_named(model, copied, generate, refused, public, photos, tmp_path):
    path = copied(model) / "unet" / "diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    line = refused(*generate("--model", path.parents[1], "--subject", "dog"))
    assert f"{path} is damaged" in line
    path.parents[1].rename(tmp_path / "damaged")
    plain = copied(public)
    (plain / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert "is a plain Stable Diffusion model: it has no subject encoder" in refused("convert", plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()
