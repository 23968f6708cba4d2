"""What sets each method apart from the others."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bdkit.methods import build_method
from bdkit.methods.base import one_placeholder
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.utils.errors import InputError

TEMPLATE = "a {} {} in the jungle"


def build(name: str, model: BlipDiffusion, **settings: Any) -> Any:
    return build_method(name, model, preset="mini", **{"start": None, **settings})


def subject_images(seed: int = 0, count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]


def equal(a: list[Image.Image], b: list[Image.Image]) -> bool:
    return [image.tobytes() for image in a] == [image.tobytes() for image in b]


@pytest.mark.parametrize(
    ("template", "result"),
    [
        ("a {} {} in the jungle", "a {} in the jungle"),
        ("a cube shaped {} {}", "a cube shaped {}"),
        ("a {} on a street", "a {} on a street"),
        ("a red {0} {1}", "a red {}"),
    ],
)
def test_a_template_keeps_one_placeholder(template: str, result: str) -> None:
    assert one_placeholder(template) == result
    for wrong in ("a dog", "a {} and {}", "a {} {} {}", "a {0} dog", "a {subject}"):
        with pytest.raises(InputError, match="subject"):
            one_placeholder(wrong)


def test_base_and_zero_shot_are_calls_of_the_model(model: BlipDiffusion) -> None:
    base = build("base", model)
    base.fit(subject_images(), "dog", 0)
    expected = model("a dog in the jungle", seeds=[1, 2])
    assert equal(base.generate(TEMPLATE, "dog", [1, 2]), expected)
    assert not equal(base.generate(TEMPLATE, "cat", [1, 2]), expected)
    assert base.snapshots == ()
    with pytest.raises(InputError):
        base.select(3)
    method = build("blip-diffusion", model, steps=0)
    assert method.snapshots == ()
    method.fit(subject_images(), "dog", 0)
    expected = model("a {} in the jungle", subject_images(), "dog", seeds=[1, 2])
    assert equal(method.generate(TEMPLATE, "dog", [1, 2]), expected)
    # another word in the prompt than the subject's own, as in style transfer
    other = model("a {} in the jungle", subject_images(), "dog", "cat", seeds=[1, 2])
    assert equal(method.generate(TEMPLATE, "cat", [1, 2]), other)


def test_the_snapshot_at_step_0_is_zero_shot(model: BlipDiffusion) -> None:
    method = build("blip-diffusion", model, steps=2, learning_rate=1e-2, snapshots=(0,))
    method.fit(subject_images(), "dog", 0)
    method.select(0)
    zero_shot = model("a {} in the jungle", subject_images(), "dog", seeds=[1])
    assert equal(method.generate(TEMPLATE, "dog", [1]), zero_shot)
    method.select(None)
    assert not equal(method.generate(TEMPLATE, "dog", [1]), zero_shot)


def test_dreambooth_draws_its_token_and_trains_the_text_encoder_on_demand(model: BlipDiffusion) -> None:
    frozen_text = build("dreambooth", model, steps=2, learning_rate=1e-2, snapshots=())
    frozen_text.fit(subject_images(), "dog", 0)
    assert not any("text_encoder" in name for name in frozen_text.state())
    assert not equal(frozen_text.generate(TEMPLATE, "dog", [1]), model("a dog in the jungle", seeds=[1]))
    trained = build("dreambooth", model, steps=2, learning_rate=1e-2, snapshots=(), train_text_encoder=True)
    trained.fit(subject_images(), "dog", 0)
    moved = [name for name, value in trained.state().items() if "text_encoder" in name and _moved(model, name, value)]
    assert any("self_attn" in name for name in moved)
    other_token = build("dreambooth", model, steps=2, learning_rate=1e-2, snapshots=(), token="vase")
    other_token.fit(subject_images(), "dog", 0)
    other_token.load_state(frozen_text.state())
    assert not equal(frozen_text.generate(TEMPLATE, "dog", [1]), other_token.generate(TEMPLATE, "dog", [1]))


def _moved(model: BlipDiffusion, name: str, value: torch.Tensor) -> bool:
    return not torch.equal(value, dict(model.named_parameters())[name.partition("/")[2]])


def test_prior_preservation_keeps_the_class_nearer_to_what_it_was(model: BlipDiffusion) -> None:
    settings = {"steps": 12, "learning_rate": 4e-3, "snapshots": (), "class_images": 4}
    fits = {}
    for weight in (0.0, 1.0):
        method = build("dreambooth", model, prior_loss_weight=weight, **settings)
        method.fit([Image.new("RGB", (32, 32), "red")] * 3, "dog", 0)
        fits[weight] = method
    assert "prior_loss" in fits[1.0].history[-1]
    losses = {weight: _prior_loss(model, method) for weight, method in fits.items()}
    assert losses[1.0] < 0.95 * losses[0.0]
    # drawn by the model before its training, once a class: the same for the next subject
    drawn = fits[1.0]._class_latents["dog"]
    assert drawn.shape == (4, 4, 8, 8)
    fits[1.0].fit(subject_images(1), "dog", 1)
    assert fits[1.0]._class_latents["dog"] is drawn


def _prior_loss(model: BlipDiffusion, method: Any) -> float:
    """Loss of "a dog" with the fitted U-Net on the untrained model's own images of a dog."""
    from bdkit.losses import noise_prediction_loss, training_scheduler

    method.selected()
    latents = model("a {}", source_subject="dog", seeds=range(50, 54), output_type="latent")
    hidden = model.encode_prompt("a {}", class_noun="dog").expand(4, -1, -1)
    scheduler, generator = training_scheduler(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        return sum(float(noise_prediction_loss(method._unet, scheduler, latents, hidden, generator)) for _ in range(6))


def test_textual_inversion_trains_one_vector_from_the_class_noun(model: BlipDiffusion) -> None:
    still = build("textual-inversion", model, steps=1, learning_rate=0.0)
    still.fit(subject_images(), "toy dog", 0)
    weight = model.text_encoder.model.embeddings.token_embedding.weight
    ids = model.tokenizer("toy dog", add_special_tokens=False).input_ids
    assert len(ids) == 2
    assert torch.allclose(still.state()["1/placeholder"], weight[ids].mean(dim=0))

    method = build("textual-inversion", model, steps=12, learning_rate=2e-2, with_class_noun=False)
    method.fit([Image.new("RGB", (32, 32), "red")] * 3, "dog", 0)
    assert list(method.state()) == ["12/placeholder"]
    losses = [entry["loss"] for entry in method.history]
    assert len(losses) == 12
    assert all(np.isfinite(losses))
    start = weight[model.tokenizer("dog", add_special_tokens=False).input_ids[0]]
    assert (method.state()["12/placeholder"] - start).abs().max() > 0.05


def test_textual_inversion_draws_the_vector_at_its_place_and_never_pushes_it_out(model: BlipDiffusion) -> None:
    """With the class noun's own embedding, "a <*>" is "a dog", and "a <*> dog" is "a dog dog"."""
    for with_class_noun, words in ((False, "dog"), (True, "dog dog")):
        method = build("textual-inversion", model, steps=1, learning_rate=0.0, with_class_noun=with_class_noun)
        method.fit(subject_images(), "dog", 0)
        assert equal(method.generate(TEMPLATE, "dog", [1]), model(f"a {words} in the jungle", seeds=[1]))
    method = build("textual-inversion", model, steps=1, templates=(" ".join(["red"] * 40) + " {}",))
    with pytest.warns(UserWarning, match="cut off"), pytest.raises(InputError, match="shorter templates"):
        method.fit(subject_images(), "dog", 0)


@pytest.mark.parametrize(
    "name", ["blip-diffusion", "dreambooth", "dreambooth-lora", "textual-inversion", "custom-diffusion"]
)
def test_a_fit_that_is_watched_gives_the_same_bits_and_stops_where_it_is_told(name: str, model: BlipDiffusion) -> None:
    settings: dict[str, Any] = {"steps": 4, "learning_rate": 1e-2, "snapshots": (2,)}
    if name in ("dreambooth", "custom-diffusion"):
        settings["class_images"] = 0
    plain, watched = build(name, model, **settings), build(name, model, **settings)
    plain.fit(subject_images(), "dog", 0)
    drawn, losses = {}, []

    def on_step(step: int, loss: float) -> bool | None:
        drawn[step] = watched.generate(TEMPLATE, "dog", [1])
        losses.append(loss)
        return stop == step

    watched.on_step, stop = on_step, None
    watched.fit(subject_images(), "dog", 0)
    assert losses == [entry["loss"] for entry in plain.history]
    assert watched.state().keys() == plain.state().keys()
    assert all(torch.equal(value, watched.state()[key]) for key, value in plain.state().items())
    stop = 2
    watched.fit(subject_images(), "dog", 0)
    assert len(watched.history) == 2
    assert watched.fitted_settings["step"] == 2
    plain.select(2)
    stopped = watched.generate(TEMPLATE, "dog", [1])
    assert equal(stopped, plain.generate(TEMPLATE, "dog", [1]))
    shown = np.array(drawn[2][0], int)
    assert abs(shown - np.array(stopped[0], int)).max() <= 1  # the fit draws with another kernel for attention
