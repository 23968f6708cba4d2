"""Every protocol against the float64 reference, and both oracles, through the real model classes.

The networks have random weights and one layer each (BDKIT_REFERENCE_LAYERS=12 for the whole ones, and
BDKIT_REFERENCE_SUBJECTS=3 for a look at fewer images).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import open_clip
import pytest
import reference_scores as reference
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from dreambench.photos import photo_paths
from dreambench.registry import load_suite
from dreambench.suites import Suite
from eval.results_dir import REAL, REAL_WITH_SELF, ImageId
from eval.score.encoders import ClipEncoder, Encoder, Evaluators
from eval.score.images import ImageFile, ImageTree
from eval.score.protocols import PROTOCOLS, find_protocol
from eval.score.score import ScoreOptions, score_images
from eval.score.weights import load_evaluators, load_into

LAYERS = int(os.environ.get("BDKIT_REFERENCE_LAYERS", "1"))
SUBJECTS = int(os.environ.get("BDKIT_REFERENCE_SUBJECTS", "30"))
TOLERANCE = 1e-6
PUBLISHED = {"dino": 0.774, "clip_i": 0.885}
# Pixels or networks of their own cost time, so these are compared on fewer images
COSTLY = {"dino-s8": 12, "dino-squash": 42, "dino-248": 42}
SIZES = ((512, 512), (320, 240), (200, 300))


def photos_folder() -> Path | None:
    folder = os.environ.get("BDKIT_DREAMBENCH_DIR")
    return Path(folder) if folder else None


@pytest.fixture(scope="module")
def photos(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real photos, made smaller once: the plain loops decode them again and again. Else textures."""
    folder, real = tmp_path_factory.mktemp("photos"), photos_folder()
    for number, subject in enumerate(suite.subjects):
        (folder / subject.name).mkdir()
        for index in range(subject.n_references):
            path = folder / subject.name / f"{index:02d}.png"
            if real is None:
                textured(10 * number + index, (300, 260)).save(path)
            else:
                with Image.open(photo_paths(real, subject)[index]) as photo:
                    photo.draft("RGB", (600, 600))
                    photo.convert("RGB").reduce(max(1, min(photo.size) // 300)).save(path)
    return folder


def textured(seed: int, size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights, saved as the public ones are."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    made = {
        reference.S16: timm.create_model(reference.S16, pretrained=False, num_classes=0, depth=LAYERS),
        reference.S8: timm.create_model(reference.S8, pretrained=False, num_classes=0, depth=LAYERS),
        "clip": reference.clip_network(depth=LAYERS).float(),
    }
    for name, network in made.items():
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in made}


@pytest.fixture(scope="module")
def suite() -> Suite:
    """DreamBench's subjects with a prompt or two each: 51 images beside the 158 photos."""
    whole = load_suite("dreambench")
    objects = (whole.object_prompts[3], whole.object_prompts[21])
    one_each = replace(whole, live_prompts=whole.live_prompts[20:21], object_prompts=objects, samples_per_prompt=1)
    return one_each.limited(subjects=SUBJECTS)


@pytest.fixture(scope="module")
def found(suite: Suite, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageTree:
    """A third of each photo in another image, so that cosines are neither 0 nor 1."""
    root = tmp_path_factory.mktemp("images")
    images = []
    for subject in suite.subjects:
        for prompt in suite.prompts(subject):
            number = len(images)
            path = root / f"{number}.png"
            size = SIZES[number % len(SIZES)]
            with Image.open(photos / subject.name / "01.png") as photo:
                Image.blend(textured(900 + number, size), photo.resize(size), 0.6).save(path)
            images.append(ImageFile(path, ImageId("mine", 0, subject.name, prompt.index, 0)))
    return ImageTree(root, tuple(images))


@dataclass
class Networks:
    """The package's encoders, with as many layers as the weights have, each built once."""

    weights: dict[str, Path]

    def __post_init__(self) -> None:
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
        self.dino = cache(self._dino)
        config = open_clip.get_model_config("ViT-B-32-quickgelu")
        for part in ("vision_cfg", "text_cfg"):
            config[part]["layers"] = LAYERS
        self.clip = open_clip.CLIP(**config)
        load_into(self.clip, self.weights["clip"])

    def _dino(self, name: str) -> torch.nn.Module:
        network = timm.create_model(name, pretrained=False, num_classes=0, depth=LAYERS)
        load_into(network, self.weights[name])
        return network

    def evaluators(self, protocol: str) -> Evaluators:
        """Those of a protocol."""
        rules = find_protocol(protocol)
        assert rules.clip_model == "ViT-B-32-quickgelu"
        named = {"file": rules.dino_model, "sha256": "random"}
        dino = Encoder(self.dino(rules.dino_model), rules.dino, "dino", named)
        named = {"file": rules.clip_model, "sha256": "random"}
        clip = ClipEncoder(self.clip, rules.clip, "clip", named, tokenizer=self.tokenizer)
        return Evaluators(protocol=protocol, encoders={"dino": dino, "clip": clip})


@pytest.fixture(scope="module")
def networks(weights: dict[str, Path]) -> Networks:
    return Networks(weights)


@pytest.fixture(scope="module")
def embedded(weights: dict[str, Path], networks: Networks) -> tuple[Callable[..., np.ndarray], ...]:
    """The reference's embeddings, each computed once."""

    @cache
    def network(name: str) -> torch.nn.Module:
        if name == "clip":
            return reference.clip_network(weights["clip"], LAYERS)
        return reference.dino_network(name, weights[name], LAYERS)

    @cache
    def dino_of(name: str, resize: str, path: Path) -> np.ndarray:
        with torch.no_grad():
            return network(name)(reference.pixels(path, resize, *reference.IMAGENET))[0].numpy()

    @cache
    def clip_of(path: Path) -> np.ndarray:
        with torch.no_grad():
            return network("clip").encode_image(reference.pixels(path, "224", *reference.CLIP))[0].numpy()

    @cache
    def text_of(text: str) -> np.ndarray:
        return reference.clip_text(network("clip"), networks.tokenizer, text)

    return dino_of, clip_of, text_of


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def texts_of(template: str, noun: str) -> dict[str, str]:
    words = {"class": template.format("", noun), "token": template.format("sks", noun)}
    words["background"] = template.format("", "").removeprefix("a ")
    colour = template.removeprefix("a ").removesuffix(" {} {}")
    words["rewritten"] = f"a {noun}, {colour}" if template.endswith("{} {}") else words["class"]
    return {kind: " ".join(text.split()) for kind, text in words.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", reference.VARIANTS)
def test_every_protocol_is_the_references(name, suite, found, photos, networks, embedded, cache_folder, tmp_path):
    if name in COSTLY:
        suite = replace(suite, subjects=suite.subjects[: max(1, COSTLY[name] // 7)])
    names = {subject.name: subject for subject in suite.subjects}
    found = ImageTree(found.root, tuple(image for image in found.images if image.id.subject in names))
    frame = score_images(
        found, suite, networks.evaluators(name), tmp_path, photos=photos,
        options=ScoreOptions(cache=cache_folder, workers=0), show_progress=False,
    )  # fmt: skip
    templates = {(s.name, prompt.index): prompt.template for s in suite.subjects for prompt in suite.prompts(s)}
    images = {
        (image.id.subject, image.id.prompt, 0): (
            image.path,
            texts_of(templates[image.id.subject, image.id.prompt], names[image.id.subject].class_noun),
        )
        for image in found.images
    }
    references = {subject: sorted((photos / subject).iterdir()) for subject in names}
    scores = frame[frame["method"] == "mine"].pivot(
        index=["subject", "prompt", "sample"], columns="metric", values="value"
    )
    given = dict.fromkeys(images, 0)
    if name == "random-reference":
        # which one is not the reference's business, that it is one of them and the same for both metrics is
        for key, (path, _) in images.items():
            own = [reference.cosine(embedded[1](path), embedded[1](other)) for other in references[key[0]]]
            given[key] = int(np.abs(np.array(own) - scores.loc[key, "clip_i"]).argmin())
    expected = reference.score(name, *embedded, images, references, given)
    assert len(scores) == len(expected) == len(images)
    factor = reference.VARIANTS[name][4]
    for key, (dino, clip_i, clip_t) in expected.items():
        assert scores.loc[key, "dino"] == pytest.approx(dino, abs=TOLERANCE)
        assert scores.loc[key, "clip_i"] == pytest.approx(clip_i, abs=TOLERANCE)
        assert scores.loc[key, "clip_t"] == pytest.approx(clip_t, abs=TOLERANCE * factor)


def test_no_protocol_is_left_out() -> None:
    # the first three only change what is expected, cut out or combined; mini has networks of its own
    others = {"six-samples", "no-background", "dreambench++", "mini"}
    assert set(PROTOCOLS) == set(reference.VARIANTS) | others


@pytest.mark.slow
def test_both_oracles_are_the_references(suite, photos, networks, embedded, cache_folder, tmp_path):
    frame = score_images(
        ImageTree(tmp_path, ()), suite, networks.evaluators("dreambench"), tmp_path / "out", photos=photos, rows=[],
        options=ScoreOptions(cache=cache_folder, workers=0), show_progress=False,
    )  # fmt: skip
    n_references = sum(subject.n_references for subject in suite.subjects)
    assert n_references == 158 or SUBJECTS < 30
    assert (frame.groupby(["method", "metric"]).size() == n_references).all()
    for row, with_self in ((REAL, False), (REAL_WITH_SELF, True)):
        for metric, embed in (("dino", lambda p: embedded[0](reference.S16, "256", p)), ("clip_i", embedded[1])):
            values = frame[(frame["method"] == row) & (frame["metric"] == metric)].set_index(["subject", "sample"])[
                "value"
            ]
            for subject in suite.subjects:
                paths = sorted((photos / subject.name).iterdir())
                for one, path in enumerate(paths):
                    cosines = [
                        reference.cosine(embed(path), embed(other))
                        for column, other in enumerate(paths)
                        if with_self or column != one
                    ]
                    assert values[subject.name, one] == pytest.approx(sum(cosines) / len(cosines), abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif(
    not os.environ.get("BDKIT_WEIGHTS_DIR") or not os.environ.get("BDKIT_DREAMBENCH_DIR"),
    reason="needs the public weights in BDKIT_WEIGHTS_DIR and the photos in BDKIT_DREAMBENCH_DIR",
)
def test_the_papers_oracle_with_the_public_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = score_images(
        ImageTree(tmp_path, ()), load_suite("dreambench"), load_evaluators("dreambench"), tmp_path / "out",
        photos=photos_folder(), rows=[], show_progress=False,
    )  # fmt: skip
    means = frame.groupby(["method", "metric", "subject"])["value"].mean().groupby(["method", "metric"]).mean()
    near = {
        metric: [row for row in (REAL, REAL_WITH_SELF) if abs(means[row, metric] - value) <= 0.01]
        for metric, value in PUBLISHED.items()
    }
    with capsys.disabled():
        print(f"\noracle: {means.to_dict()}; within 0.01 of the paper: {near}")
    assert all(near.values())
