"""A ControlNet beside a frozen model: it starts without effect, it alone is trained, and a run resumes exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from bdkit import cli
from bdkit.editing.structure_control import (
    CONTROLNETS,
    SHIPPED,
    StructureControl,
    default_controlnet,
    load_controlnet,
)
from bdkit.editing.structures import canny_edges
from bdkit.methods.base import weights_hash
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.models.latent_diffusion import latent_factor
from bdkit.testing.tiny_model import tiny_model
from bdkit.training.config import TrainingConfig
from bdkit.training.controlnet import NAME, controlnet_batches, edges_of, new_controlnet, train_controlnet
from bdkit.training.pretraining.autoencoder import encode_corpus
from bdkit.training.pretraining.corpus import Corpus
from bdkit.utils.errors import InputError
from bdkit.utils.io import read_json

CONFIG = TrainingConfig(steps=4, batch_size=4, learning_rate=1e-2)


def corpus() -> Corpus:
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    texts = [f"a {{}} in the {place}" for place in ("snow", "city", "grass", "jungle")] * 2
    return Corpus(images=images, alphas=images[..., 0], templates=texts, details=texts, class_nouns=["dog", "cat"] * 4)


def train(model: BlipDiffusion, config: TrainingConfig = CONFIG, out: Path | None = None) -> dict[str, torch.Tensor]:
    scenes = corpus()
    latents, edges = encode_corpus(model.vae, scenes.images), edges_of(scenes.images)
    batches = controlnet_batches(model, scenes, latents, edges, config)
    net, record = train_controlnet(model, batches, config, out, device="cpu", progress=False)
    assert record["final"]["step"] == config.steps
    return net.state_dict()


def test_before_any_step_the_model_draws_as_without_it() -> None:
    model = tiny_model()
    factor = latent_factor(model.vae)
    net = new_controlnet(model.unet, factor)
    generator = torch.Generator().manual_seed(0)
    latents, hidden = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 20, 32, generator=generator)
    time, structure = torch.tensor([5, 900]), torch.rand(2, 3, 8 * factor, 8 * factor, generator=generator)
    with torch.no_grad():
        down, middle = net(latents, time, hidden, structure, return_dict=False)
    assert len(down) == len(new_controlnet(model.unet, factor).controlnet_down_blocks)
    assert not any(residual.any() for residual in (*down, middle))


def test_it_alone_is_trained() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    trained = train(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for name in (
        "controlnet_down_blocks.0.weight",
        "controlnet_mid_block.weight",
        "controlnet_cond_embedding.conv_out.weight",
    ):
        assert trained[name].any()
        assert trained[name].isfinite().all()


def test_a_stopped_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = train(tiny_model())
    train(tiny_model(), replace(CONFIG, steps=2), tmp_path)
    resumed = train(tiny_model(), out=tmp_path)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_the_edges_of_training_are_those_of_generation() -> None:
    images = corpus().images
    given = np.stack([np.asarray(canny_edges(Image.fromarray(image)))[..., 0] for image in images])
    assert np.array_equal(edges_of(images), given)
    assert set(np.unique(given)) == {0, 255}


def test_the_stage_trains_beside_the_shipped_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pretrain", "controlnet", "--smoke", "--out", str(tmp_path), "--device", "cpu"]) == 0
    folder = tmp_path / "weights" / NAME
    assert str(folder) in capsys.readouterr().out
    assert read_json(folder / "run.json")["beside"] == "mini-base"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    assert "mini-base" in (folder / "README.md").read_text()
    net = load_controlnet(folder)
    assert net.dtype == torch.float32
    assert cli.main(["pretrain", "controlnet", "--smoke", "--out", str(tmp_path)]) == 0  # nothing left to do


@pytest.mark.weights
def test_the_shipped_one_belongs_to_the_mini_model() -> None:
    mini = BlipDiffusion.from_pretrained("mini")
    assert default_controlnet("canny", "mini", mini.unet) == "mini-canny"
    edges = Image.fromarray(edges_of(corpus().images)[0])
    control = StructureControl.from_pretrained("mini-canny", edges)
    assert control.guided
    before = weights_hash(mini)
    settings = {"seeds": [0], "num_inference_steps": 2, "output_type": "latent"}
    plain = mini("a dog in the snow", **settings)
    assert not torch.equal(mini("a dog in the snow", control=control, **settings), plain)
    assert weights_hash(mini) == before
    assert torch.equal(mini("a dog in the snow", **settings), plain)
    folder = SHIPPED["mini-canny"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 7e6
    with pytest.raises(InputError, match="no known ControlNet keeps 'depth' for the U-Net of mini"):
        default_controlnet("depth", "mini", mini.unet)
    with pytest.raises(InputError, match="no known ControlNet keeps 'canny'"):
        default_controlnet("canny", "tiny", tiny_model().unet)


def test_without_a_name_stable_diffusion_has_the_public_ones() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    assert {kind: default_controlnet(kind, "sd", unet) for kind in CONTROLNETS} == CONTROLNETS
