"""Structure control against what the reference, BlipDiffusionControlNetPipeline of diffusers 0.32.2, recorded."""

import json
from pathlib import Path

import cases
import numpy as np
import pytest

from bdkit.editing.structure_control import StructureControl, has_own_controlnet
from bdkit.models.blip_diffusion import BlipDiffusion
from bdkit.testing.tiny_checkpoints import write_tiny_checkpoint
from bdkit.utils.errors import InputError

REFERENCE = Path(__file__).parents[2] / "reference"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public format with a controlnet/, as salesforce/blipdiffusion-controlnet has."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("public") / "control", "diffusers", controlnet=True)


def test_the_index_names_the_controlnet(tmp_path: Path) -> None:
    """As that of salesforce/blipdiffusion-controlnet does; the base repository has one that its index does not name."""
    folder = write_tiny_checkpoint(tmp_path / "control", controlnet=True)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["controlnet"] == ["diffusers", "ControlNetModel"]
    assert index["_class_name"] == "BlipDiffusionControlNetPipeline"
    assert has_own_controlnet(folder)
    del index["controlnet"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert not has_own_controlnet(folder)
    with pytest.raises(InputError, match="no place for a ControlNet"):
        write_tiny_checkpoint(tmp_path / "lavis", "lavis", controlnet=True)


@pytest.mark.parametrize("name", sorted(cases.CONTROL_CASES))
def test_the_references_latents_and_images(folder: Path, name: str) -> None:
    case, golden = cases.CONTROL_CASES[name], np.load(REFERENCE / "golden" / f"{name}.npz")
    model = BlipDiffusion.from_pretrained(folder)
    call = {
        "prompt": case["prompts"],
        "reference_images": cases.image(case["image"], cases.SUBJECT),
        "source_subject": cases.SUBJECT,
        "target_subject": case["targets"],
        "negative_prompt": cases.NEGATIVE,
        "guidance_scale": case["guidance"],
        "num_inference_steps": case["steps"],
        "prompt_reps": case["reps"],
        "height": case["size"][0],
        "width": case["size"][1],
        "seeds": case["seeds"],
        "control": StructureControl.from_pretrained(folder, cases.condition(case["condition"])),
    }
    latents = model(**call, output_type="latent").numpy()
    assert np.abs(latents - golden["latents"]).max() < 2e-4
    assert np.abs(model(**call, output_type="np") - golden["images"]).max() < 1e-5
    plain = model(**{**call, "control": None}, output_type="latent").numpy()
    assert np.abs(plain - golden["latents"]).max() > 1e-2
