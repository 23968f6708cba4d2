"""The attention maps against softmax(q k) taken by hooks, their statistics against closed forms, and what stays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from bdkit import cli
from bdkit.editing.attention_maps import attention_maps, figure, map_statistics, table
from bdkit.models.latent_diffusion import encode_images
from bdkit.models.preprocessing import pixels_from_arrays
from bdkit.testing.tiny_model import tiny_model
from bdkit.utils.errors import InputError

PROMPT = "a {} dog in the snow"


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def subject() -> torch.Tensor:
    return torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))


def test_maps_are_the_softmax_of_queries_and_keys() -> None:
    """Queries and keys are taken by hooks from a plain call of the U-Net, before any processor is installed."""
    model = tiny_model()
    found = attention_maps(model, photo(), PROMPT, subject(), steps=3, seed=5)
    vectors = [f"subject {number}" for number in (1, 2, 3, 4)]
    assert [label for label, _ in found.tokens] == [*vectors, "a", "dog", "in", "the", "snow"]
    assert found.timesteps == (832, 499, 166)
    assert len({place for _, places in found.tokens for place in places}) == 9

    taken: dict[str, torch.Tensor] = {}
    layers = [name for name, _ in model.unet.named_modules() if name.endswith("attn2") and "mid" not in name]
    for name in layers:
        for part in ("to_q", "to_k"):
            module = model.unet.get_submodule(f"{name}.{part}")
            module.register_forward_hook(lambda m, i, o, key=f"{name}.{part}": taken.update({key: o.detach()}))
    clean = encode_images(model.vae, pixels_from_arrays(np.array(photo())[None]))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    time = torch.tensor([499])
    noisy = DDIMScheduler.from_config(model.scheduler.config).add_noise(clean, noise, time)
    hidden = model.encode_prompt("a {} in the snow", subject(), "dog", prompt_reps=1)
    with torch.no_grad():
        model.unet(noisy, time, hidden)
    for number, name in enumerate(found.layers):
        heads = model.unet.get_submodule(name).heads
        query, key = (taken[f"{name}.{part}"][0].double().unflatten(1, (heads, -1)) for part in ("to_q", "to_k"))
        scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
        expected = scores.softmax(-1).mean(0)
        torch.testing.assert_close(found.maps[1, number].flatten(0, 1).double(), expected, atol=1e-5, rtol=0)


def test_nothing_of_it_stays_in_the_model() -> None:
    model = tiny_model()
    before = model("a dog", seeds=[0], output_type="pt")
    processors = model.unet.attn_processors
    attention_maps(model, photo(), PROMPT, subject(), steps=1)
    with pytest.raises(InputError, match="0 timesteps"):
        attention_maps(model, photo(), PROMPT, subject(), steps=0)
    assert model.unet.attn_processors == processors
    assert torch.equal(before, model("a dog", seeds=[0], output_type="pt"))


def test_statistics_are_the_closed_forms() -> None:
    mask = np.zeros((4, 4))
    mask[:2, :2] = 1
    flat = map_statistics(np.full((4, 4), 0.2), mask)
    assert (flat.entropy, flat.lift, flat.auc, flat.weight) == pytest.approx((1, 1, 0.5, 0.2))
    assert flat.kind == "global"
    inside = map_statistics(mask, mask)  # uniform over 4 of 16 positions
    assert (inside.entropy, inside.inside, inside.lift, inside.auc) == pytest.approx((0.5, 1, 4, 1))
    assert (inside.kind, map_statistics(10 - 9 * mask, mask).kind) == ("subject", "background")
    assert map_statistics(1.001 - 0.001 * mask, mask).kind == "global"
    one = np.zeros((4, 4))
    one[0, 0] = 3
    assert map_statistics(one) == map_statistics(one, None)
    assert map_statistics(one).entropy == pytest.approx(0)
    assert map_statistics(one, mask).auc == pytest.approx(0.5 + 0.5 / 4)  # ties count half
    with pytest.raises(InputError, match="covers no or every position"):
        map_statistics(one, np.zeros((4, 4)))


def test_table_and_figure_show_every_token() -> None:
    found = attention_maps(tiny_model(), photo(), PROMPT, subject(), steps=4)
    mask = Image.fromarray(np.pad(np.full((16, 16), 255, np.uint8), 8))
    rows = table(found, mask)
    assert len(rows) == 9 * (1 + len(found.layers) + 4)
    weights = [row["weight"] for row in rows if row["layer"] == row["timestep"] == "all"]
    assert 0 < sum(weights) < 1  # the rest goes to the begin-of-text and padding tokens
    assert figure(found, photo(), mask).size == (11 * 64, 14 + (1 + len(found.layers) + 3) * 64)


def test_the_command_writes_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model().save_pretrained(tmp_path / "tiny")
    flags: list[Any] = ["attention", "mini/dog", "--model", model, "--steps", 2, "--out"]
    assert cli.main([*map(str, flags), str(tmp_path / "drawn")]) == 0
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {
        *("attention.png", "attention.csv", "image.png", "run.json"),
    }
    assert "auc" in capsys.readouterr().out
    assert cli.main([*map(str, flags), str(tmp_path / "generated"), "--prompt", "a {} on a rug"]) == 0
    assert "auc" not in capsys.readouterr().out
    for more, words in [
        (["--prompt", "a dog"], "needs one {}"),
        (["--mask", "m.png"], "give that with --image"),
        (["--steps", "0"], "--steps is 0"),
        (["--image", "no.png"], "no.png is missing"),
    ]:
        assert cli.main([*map(str, flags), str(tmp_path / "wrong"), *more]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "wrong").exists()
