"""The encoders with their weights, from a file, a folder, the hub's cache, the hub, or this package."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from open_clip.tokenizer import HFTokenizer
from torch import nn

from bdkit.utils.errors import InputError
from bdkit.utils.io import file_hash, read_json
from bdkit.utils.tensors import WRAPPERS, plain_names, read_content
from eval.mini.networks import WordTokenizer, load_network
from eval.score.encoders import ENCODERS, Classifier, ClipEncoder, Encoder, EncoderSpec, Evaluators
from eval.score.metrics import METRICS
from eval.score.protocols import Preprocessing, find_protocol
from eval.score.weight_formats import plain_weights

WEIGHTS_DIR_VARIABLE = "BDKIT_WEIGHTS_DIR"
PICKLED = (".bin", ".pt", ".pth")
# Where the same weights are under other names, which are read, too
SAME_WEIGHTS = {
    "timm/vit_small_patch16_224.dino": "facebook/dino-vits16",
    "timm/vit_small_patch8_224.dino": "facebook/dino-vits8",
    "timm/vit_base_patch16_224.dino": "facebook/dino-vitb16",
    "timm/vit_base_patch8_224.dino": "facebook/dino-vitb8",
    "timm/vit_small_patch14_dinov2.lvd142m": "facebook/dinov2-small",
    "timm/vit_base_patch32_clip_224.openai": "openai/clip-vit-base-patch32",
    "timm/vit_large_patch14_clip_224.openai": "openai/clip-vit-large-patch14",
}
TRANSFORMERS_FILES = ("model.safetensors", "pytorch_model.bin")
MINI_WEIGHTS = Path(__file__).parent.parent / "mini" / "weights"
CARD = "card.json"
# Beside DINO and CLIP: those of the mini world's ground truth, and those of optional metrics
OF_MINI_WORLD, OPTIONAL = ("identity", "classifier"), ("dinov2", "siglip2")


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Where to look for weights, in this order: the file named for the network, the folder, the hub's cache, the hub.

    files: network ("dino", "clip", ...) -> a file with its weights: safetensors, or .pth, .pt, .bin of plain tensors
    folder: <repository's last name>/<file name> or <repository's last name>.safetensors; None: $BDKIT_WEIGHTS_DIR
    offline: never ask the hub
    """

    files: tuple[tuple[str, Path], ...] = ()
    folder: Path | None = None
    offline: bool = False

    def find(self, network: str, repository: str, filename: str) -> Path:
        """The weights file of a network that the hub has as `repository`/`filename`."""
        given = dict(self.files).get(network)
        if given is not None:
            files = [given, *(given / one for one in (filename, *TRANSFORMERS_FILES))]
            found = next((path for path in files if path.is_file()), None)
            if found is None:
                inside = f"/{filename}" if given.is_dir() else ""
                raise InputError(f"the weights file {given}{inside} of {network} is not there; check the path")
            return found
        name, same = Path(repository).name, SAME_WEIGHTS.get(repository)
        folder = self.folder or os.environ.get(WEIGHTS_DIR_VARIABLE)
        relative = [f"{name}/{filename}", f"{name}.safetensors"]
        if same and filename.endswith("model.safetensors"):
            relative += [f"{Path(same).name}/{one}" for one in TRANSFORMERS_FILES]
        for one in relative:
            if folder and (Path(folder) / one).is_file():
                return Path(folder) / one
        candidates = [(repository, filename)]
        if same and filename.endswith("model.safetensors"):
            candidates += [(same, one) for one in TRANSFORMERS_FILES]
        for candidate in candidates:
            cached = try_to_load_from_cache(*candidate)
            if isinstance(cached, str):
                return Path(cached)
        reason = "--offline"
        if not self.offline:
            try:
                return Path(hf_hub_download(repository, filename, etag_timeout=5))
            except Exception as error:  # the hub's client raises many kinds, from many libraries
                reason = type(error).__name__
        raise InputError(
            f"the weights of {repository} are not here ({reason}): put {filename} in ${WEIGHTS_DIR_VARIABLE}/{name}/, "
            f"name the file (--{network}-weights), or run once with access to the Hugging Face hub"
        )


def refuse_programs(path: Path, instead: str) -> None:
    """Raises InputError for a TorchScript archive, as OpenAI published CLIP: it holds a program, which would be run.

    instead: where the same weights are as plain tensors
    """
    if path.suffix in PICKLED and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            is_program = any(Path(name).name == "constants.pkl" for name in archive.namelist())
        if is_program:
            raise InputError(
                f"{path} is a TorchScript archive, a program and not only weights, and is not run; use {instead}, the "
                "same weights as plain tensors"
            )


def load_into(network: nn.Module, path: Path) -> None:
    """Loads a file of weights, every one of them."""
    state, name = read_weights(path)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        of_size = f"{name} of another size or kind" if name else "of another network"
        raise InputError(
            f"the weights {path} are broken or {of_size} ({_mismatch(error)}); download those of the right network"
        ) from error


def load_shipped(name: str) -> tuple[nn.Module, dict[str, Any], dict[str, str]]:
    """One of the mini evaluators: the network, its configuration, and what a run record says of its weights."""
    path = MINI_WEIGHTS / CARD
    if not path.is_file():
        raise InputError(
            f"the mini evaluators are not here: no {path}; reinstall the package or run `bdkit train-evaluators`"
        )
    models = read_json(path).get("models")
    entry = models.get(name) if isinstance(models, dict) else None
    if not isinstance(entry, dict) or "sha256" not in entry:
        raise InputError(f"{path} says nothing of {name!r}; reinstall the package or run `bdkit train-evaluators`")
    path = MINI_WEIGHTS / f"{name}.safetensors"
    network, config = load_network(path, entry["sha256"])
    return network, config, {"file": path.name, "sha256": entry["sha256"]}


def load_evaluators(
    protocol: str, device: str = "cpu", source: WeightsSource | None = None, metrics: Sequence[str] = ()
) -> Evaluators:
    """All networks of a protocol, and those of the optional metrics named.

    source: where to look for public weights; None: $BDKIT_WEIGHTS_DIR, the hub's cache, the hub
    """
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"unknown metric {name!r}; known are {', '.join(METRICS)}")
    shipped = find_protocol(protocol).weights == "shipped"
    names = ["dino", "clip", *(["identity"] if shipped else [])]
    names += sorted({str(METRICS[name].encoder) for name in metrics} & set(OPTIONAL))
    encoders = {name: load_encoder(name, protocol, device, source) for name in names}
    classifier = load_classifier(protocol, device) if shipped else None
    return Evaluators(protocol=protocol, encoders=encoders, classifier=classifier, metrics=tuple(metrics))


def load_encoder(name: str, protocol: str, device: str = "cpu", source: WeightsSource | None = None) -> Encoder:
    """The encoder "dino" or "clip" of a protocol, "dinov2" or "siglip2", or for `mini` "identity" or "classifier".

    source: where to look for public weights; None: $BDKIT_WEIGHTS_DIR, the hub's cache, the hub
    """
    rules = find_protocol(protocol)
    if name in ("dino", "clip"):
        model, how = (rules.dino_model, rules.dino) if name == "dino" else (rules.clip_model, rules.clip)
        models = {spec.model: spec for spec in ENCODERS.values()}
        if model not in models:
            raise InputError(f"protocol {protocol!r} names an unknown network {model!r}; known: {', '.join(models)}")
        return build_encoder(name, models[model], how, device, source)
    if name in OF_MINI_WORLD:
        if rules.weights != "shipped":
            raise InputError(f"protocol {protocol!r} has no {name}: that needs the ground truth of the mini world")
        return build_encoder(name, ENCODERS[f"mini-{name}"], None, device)
    if name not in OPTIONAL:
        raise InputError(f"unknown encoder {name!r}; known: {', '.join(('dino', 'clip', *OF_MINI_WORLD, *OPTIONAL))}")
    return build_encoder(name, ENCODERS[name], None, device, source)


def load_clip(protocol: str, device: str = "cpu") -> ClipEncoder:
    """`load_encoder("clip", protocol)` with its exact type."""
    encoder = load_encoder("clip", protocol, device)
    assert isinstance(encoder, ClipEncoder)
    return encoder


def load_classifier(protocol: str = "mini", device: str = "cpu") -> Classifier:
    """`load_encoder("classifier", protocol)` with its exact type."""
    encoder = load_encoder("classifier", protocol, device)
    assert isinstance(encoder, Classifier)
    return encoder


def build_encoder(
    name: str,
    spec: EncoderSpec,
    how: Preprocessing | None = None,
    device: str = "cpu",
    source: WeightsSource | None = None,
) -> Encoder:
    """The encoder of a table entry with its weights; how: other pixels than the entry's."""
    how = how or spec.pixels
    if spec.library == "mini":
        network, config, checkpoint = load_shipped(name)
        if name == "clip":
            words = WordTokenizer(config["words"], config["text"]["context_length"])
            return ClipEncoder(network, how, name, checkpoint, device, tokenizer=words)
        return (Classifier if name == "classifier" else Encoder)(network, how, name, checkpoint, device)
    source = source or WeightsSource()
    path = source.find(name, spec.repository, spec.filename)
    refuse_programs(path, f"{spec.filename} of {spec.repository} on the Hugging Face hub")
    if spec.library == "timm":
        network = timm.create_model(spec.model, pretrained=False, num_classes=0, **spec.options)
    else:
        network = open_clip.create_model(spec.model, pretrained=None, pretrained_hf=False)
    load_into(network, path)
    checkpoint = {"file": "/".join(filter(None, (spec.model, spec.pretrained))), "sha256": file_hash(path)}
    if spec.library == "timm":
        return Encoder(network, how, name, checkpoint, device)
    return ClipEncoder(network, how, name, checkpoint, device, tokenizer=_tokenizer(name, spec, source))


def _tokenizer(name: str, spec: EncoderSpec, source: WeightsSource) -> Any:
    if not spec.tokenizer:
        return open_clip.get_tokenizer(spec.model)
    path = source.find(f"{name}-tokenizer", spec.repository, spec.tokenizer)
    settings = open_clip.get_model_config(spec.model)["text_cfg"]
    try:
        return HFTokenizer(
            str(path.parent), context_length=settings["context_length"], **settings.get("tokenizer_kwargs", {})
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"the tokenizer in {path.parent} cannot be read ({type(error).__name__}); put {spec.tokenizer} and "
            f"tokenizer_config.json of {spec.repository} there"
        ) from error


def read_weights(path: Path) -> tuple[Any, str]:
    """The tensors of a file by timm's or open_clip's names, and the other format that they came in, if any."""
    try:
        content = read_content(path)
    except InputError as error:
        raise InputError(f"the weights are broken or of another network: {error}") from None
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return plain_weights(plain_names(content) if isinstance(content, Mapping) else content)


def _mismatch(error: Exception) -> str:
    """The first thing that is wrong, in one line; torch lists it below the name of the network."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__)[:160]
