"""Methods by name: presets, overrides, the start model beside the given one."""

from pathlib import Path
from typing import Any

import pytest

from bdkit.checkpoints.load import checkpoint_hash
from bdkit.methods import METHODS, build_method, method_config
from bdkit.methods.presets import METHOD_PRESETS
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.method_config import METHOD_CONFIGS
from bdkit.utils.errors import InputError
from eval.experiments import TABLE1


def test_every_preset_has_every_method_and_every_row_its_snapshot() -> None:
    for preset, methods in METHOD_PRESETS.items():
        assert set(methods) == set(METHODS)
        for row in TABLE1:
            config = method_config(row.method, preset, **row.overrides)
            assert row.snapshot is None or row.snapshot in config.kept_steps


def test_published_numbers() -> None:
    paper, public = (METHOD_PRESETS[name]["blip-diffusion"] for name in ("paper", "public"))
    assert (paper.learning_rate, public.learning_rate) == (5e-5, 5e-6)  # type: ignore[attr-defined]
    for config in (paper, public):
        assert (config.batch_size, config.weight_decay) == (3, 0.01)  # type: ignore[attr-defined]
        assert 40 <= config.steps <= 120  # type: ignore[attr-defined]
    lora, inversion = method_config("dreambooth-lora", "public"), method_config("textual-inversion", "public")
    assert (lora.learning_rate, lora.steps, lora.batch_size, lora.rank) == (1e-4, 500, 1, 4)
    assert (inversion.learning_rate, inversion.steps) == (4 * 5e-4, 3000)
    assert inversion.batch_size * inversion.gradient_accumulation_steps == 4
    custom = {name: method_config("custom-diffusion", name) for name in ("paper", "public")}
    assert {(config.learning_rate, config.steps, config.class_images) for config in custom.values()} == {
        (8e-5, 250, 200)
    }
    assert {name: config.batch_size for name, config in custom.items()} == {"paper": 8, "public": 4}
    assert {(config.placeholder_token, config.initializer_token) for config in custom.values()} == {("<new1>", "ktn")}
    prior = method_config("dreambooth", "public")
    assert (prior.learning_rate, prior.steps, prior.prior_loss_weight, prior.class_images) == (5e-6, 800, 1.0, 200)


def test_overrides_may_come_from_json_and_fewer_steps_drop_later_snapshots() -> None:
    assert method_config("dreambooth", "mini").snapshots == (100, 300)
    assert method_config("dreambooth", "mini", steps=150).snapshots == (100,)
    assert method_config("dreambooth", "mini", steps=9, snapshots=[3, 5]).kept_steps == (3, 5, 9)
    with pytest.raises(InputError):
        method_config("dreambooth", "mini", steps=9, snapshots=[30])
    auto = method_config("blip-diffusion", "paper", steps="auto")
    assert (auto.steps, auto.most_steps, auto.snapshots) == ("auto", 120, ())
    assert method_config("dreambooth", "public", class_images=0).prior_loss_weight == 0
    assert {name: type(config) for name, config in METHOD_PRESETS["mini"].items()} == METHOD_CONFIGS


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("dreamboth", {}, "unknown method 'dreamboth'; known are base, "),
        ("base", {"preset": "huge"}, "unknown preset 'huge'"),
        ("base", {"steps": 3}, "base has no setting steps; it has start"),
        ("base", {"scheduler": "Euler"}, "no scheduler 'Euler'"),
        ("base", {"start": "no-such-model"}, "no model at 'no-such-model'"),
        ("dreambooth", {"steps": 0}, "learns nothing"),
        ("dreambooth", {"prior_loss_weight": 1.0, "class_images": 0}, "at least 1 image"),
        ("dreambooth", {"steps": "many"}, "dreambooth's steps is 'many'; it must be a whole number"),
        ("dreambooth", {"steps": "auto"}, "steps is 'auto', which is of blip-diffusion alone"),
        ("blip-diffusion", {"steps": "autom"}, "steps is 'autom'; it must be a whole number or 'auto'"),
        ("blip-diffusion", {"steps": "auto", "snapshots": [40]}, "snapshots [40] need a number of steps"),
        ("dreambooth", {"steps": True}, "steps is True; it must be a whole number"),
        ("dreambooth", {"snapshots": [1.5]}, "snapshots is [1.5]; it must be a list, each a whole number"),
        ("dreambooth", {"token": None}, "token is None; it must be text"),
        ("dreambooth", {"guidance_scale": "7"}, "guidance_scale is '7'; it must be a number or null"),
        ("dreambooth", {"random_flip": 1}, "random_flip is 1; it must be true or false"),
        ("dreambooth", {"mixed_precision": "fp8"}, "mixed_precision is 'fp8'; use no, bf16, fp16"),
        ("dreambooth", {"gradient_accumulation_steps": 0}, "gradient_accumulation_steps 0"),
        ("dreambooth-lora", {"rank": 0}, "rank is 0"),
        ("dreambooth-lora", {"train_text_encoder": True}, "trains the U-Net alone"),
        (
            "re-imagen",
            {},
            "re-imagen has no additions for this model (the shipped ones are for mini-base); train them with bdkit",
        ),
        ("re-imagen", {"adapter": "no-such-folder"}, "no-such-folder holds no additions of Re-Imagen"),
        ("re-imagen", {"neighbours": 0}, "neighbours is 0; use at least 1"),
        ("re-imagen", {"text_share": 2}, "text_share is 2.0; use a share from 0 to 1"),
        ("re-imagen", {"neighbour_guidance_scale": -1}, "guidance_scale is -1.0"),
        ("textual-inversion", {"steps": 0}, "learns nothing"),
        ("textual-inversion", {"templates": []}, "at least one template"),
        ("textual-inversion", {"placeholder_token": "dog"}, "choose another"),
        ("custom-diffusion", {"steps": 0}, "custom-diffusion with 0 steps learns nothing"),
        ("custom-diffusion", {"initializer_token": " "}, "initializer_token is ' '"),
        ("custom-diffusion", {"prior_loss_weight": -1}, "prior_loss_weight is -1"),
    ],
)
def test_wrong_names_and_numbers_are_told(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        build_method(name, tiny_model(), **settings)
    assert words in str(error.value)


def test_the_record_names_the_preset_and_the_start_lies_beside_the_model(tmp_path: Path) -> None:
    model = tiny_model()
    assert build_method("blip-diffusion", model).settings["learning_rate"] == 5e-5
    model.record["method_preset"] = "public"
    method = build_method("blip-diffusion", model, scheduler="DDIMScheduler", guidance_scale=1.5)
    assert (method.settings["learning_rate"], method.settings["guidance_scale"]) == (5e-6, 1.5)
    assert method.settings["scheduler"] == "DDIMScheduler"
    tiny_model(0).save_pretrained(tmp_path / "mini")
    tiny_model(1).save_pretrained(tmp_path / "mini-base")
    given = build_method("base", str(tmp_path / "mini"), preset="paper")
    beside = build_method("base", str(tmp_path / "mini"), preset="mini")
    assert given.settings["checkpoint"] == checkpoint_hash(tmp_path / "mini")
    assert beside.settings["checkpoint"] == checkpoint_hash(tmp_path / "mini-base")
    tiny_model(2).save_pretrained(tmp_path / "alone" / "mine")
    alone = build_method("dreambooth-lora", str(tmp_path / "alone" / "mine"), preset="mini")
    assert alone.settings["checkpoint"] == checkpoint_hash(tmp_path / "alone" / "mine")  # not the shipped mini-base
    assert alone.settings["start"] is None
    assert "resolution" in given.settings
    assert str(tmp_path) not in str(given.settings)
