"""What the metrics of parts of an image need: masks, images with one side blanked out, sources of edits, LPIPS.

A mask is (H, W) float64 in 0..1, 1 on the subject. Masks and sources are trees of PNGs like a results folder's images,
whatever the tree of the scored ones: seed<k>/METHOD/SUBJECT/<prompt>-<sample>.png, and for masks also
references/SUBJECT/<name of the reference>.png.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from bdkit.utils.errors import InputError
from bdkit.utils.images import read_image
from dreambench.suites import Prompt, SuiteSubject
from eval.results_dir import IMAGES, REFERENCES
from eval.score.edit_metrics import Edit, FloatArray, PerceptualDistance, PixelArray
from eval.score.encoders import ClipEncoder, Encoder
from eval.score.features import EmbeddingCache, content_hash
from eval.score.images import ImageFile
from eval.score.metrics import VIEWS, Metric, place_words
from eval.score.protocols import Preprocessing
from eval.score.weights import WEIGHTS_DIR_VARIABLE, WeightsSource, read_weights

CLIPSEG, SEGMENT = "CIDAS/clipseg-rd64-refined", "clipseg"
THRESHOLD = 0.5
# torchvision's files of the networks that LPIPS is made of
ALEXNET_FILE, SQUEEZENET_FILE = "alexnet-owt-7be5be79.pth", "squeezenet1_1-b8a52dc0.pth"
LPIPS_FILES = {"alex": ALEXNET_FILE, "squeeze": SQUEEZENET_FILE}
BATCH = 32
Mask = NDArray[np.float64]
# A file, its content hash, and its path in the trees of masks and sources
File = tuple[Path, bytes, Path]


def read_mask(path: Path, size: tuple[int, int]) -> Mask:
    """The mask (H, W) of an image of (width, height) `size`; it must have that size too."""
    if not path.is_file():
        raise InputError(f"{path} is missing: every image needs its mask there, white on the subject")
    image = read_image(path, to_srgb=False).convert("L")
    if image.size != size:
        raise InputError(
            f"the mask {path} has {image.size[0]} x {image.size[1]} pixels, its image {size[0]} x {size[1]}"
        )
    return np.asarray(image, dtype=np.float64) / 255


def keep(
    image: Image.Image, mask: Mask, side: Literal["subject", "background"], fill: tuple[int, int, int]
) -> Image.Image:
    """The image with the subject's pixels alone, or with all others alone; `fill` elsewhere, mixed at soft edges.

    Raises ValueError for a mask of another size.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    if mask.shape != pixels.shape[:2]:
        raise ValueError(f"a mask of {mask.shape} does not fit an image of {pixels.shape[:2]}")
    share = mask if side == "subject" else 1 - mask
    mixed = pixels * share[..., None] + np.array(fill, dtype=np.float64) * (1 - share[..., None])
    return Image.fromarray(np.rint(mixed).clip(0, 255).astype(np.uint8))


def mean_colour(how: Preprocessing) -> tuple[int, int, int]:
    """The RGB colour nearest to the one that the preprocessing maps to zero."""
    red, green, blue = (round(255 * value) for value in how.mean)
    return red, green, blue


class ClipSegSegmenter:
    """Masks from a class noun, by CLIPSeg (arXiv 2112.10003).

    Args:
        path: hub id (from the cache or the hub) or local folder of the weights.
    """

    def __init__(self, path: str = CLIPSEG, device: str = "cpu") -> None:
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        try:
            self.processor = CLIPSegProcessor.from_pretrained(path)
            self.network = CLIPSegForImageSegmentation.from_pretrained(path).to(device).eval()
        except (OSError, ValueError) as error:
            raise InputError(
                f"the weights of {path} are not here ({type(error).__name__}): give masks as PNG files, a folder with "
                "CLIPSeg's weights, or run once with access to the Hugging Face hub"
            ) from error
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], class_noun: str) -> list[Mask]:
        """The mask of each image at its own size, 0 or 1: where the noun's probability is above THRESHOLD."""
        texts = [class_noun] * len(images)
        inputs = self.processor(text=texts, images=list(images), padding=True, return_tensors="pt").to(self.device)
        logits = self.network(**inputs).logits
        logits = logits.reshape(len(images), 1, *logits.shape[-2:])
        masks = []
        for image, row in zip(images, logits, strict=True):
            sized = interpolate(row[None], size=(image.height, image.width), mode="bilinear", align_corners=False)
            masks.append((sized[0, 0].sigmoid() > THRESHOLD).double().cpu().numpy())
        return masks


class MaskedImages:
    """Gives the fields of `Batch` that metrics of parts of an image, of edits and of LPIPS need.

    Args:
        metrics: name -> those that are scored.
        encoders: "dino" and "clip".
        masks: folder of the subjects' masks, white on the subject, or "clipseg" to find them.
        sources: folder of the images that edited ones were made from.
        cache: folder for the embeddings of masked images.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        encoders: Mapping[str, Encoder],
        masks: str | None,
        sources: Path | None,
        cache: Path,
    ) -> None:
        needed = {metric.encoder for metric in metrics.values()}
        edits = [name for name, metric in metrics.items() if metric.of_edits]
        masked = [name for name, metric in metrics.items() if metric.of_edits or metric.encoder in VIEWS]
        if masked and masks is None:
            raise InputError(
                f"{', '.join(masked)}: give the subjects' masks with --masks DIR, or let --masks {SEGMENT} find them"
            )
        if edits and sources is None:
            raise InputError(f"{', '.join(edits)}: give the images that the edits were made from with --sources DIR")
        self.views = [name for name in VIEWS if name in needed]
        self.edits = bool(edits)
        self.pixels = any(metric.encoder == "lpips" and not metric.of_edits for metric in metrics.values())
        self.encoders, self.masks, self.sources, self.cache = encoders, Path(masks or ""), sources or Path(), cache
        self.segmenter = ClipSegSegmenter() if masks == SEGMENT else None
        self.perceptual = load_lpips() if "lpips" in needed else None

    def of_references(
        self, subject: SuiteSubject, paths: Sequence[Path], contents: Mapping[Path, bytes]
    ) -> dict[str, FloatArray]:
        """View -> (r, d) embeddings of one subject's references. contents: file -> its content hash"""
        names = [Path(REFERENCES, subject.name, f"{path.stem}.png") for path in paths]
        files = [(path, contents[path], name) for path, name in zip(paths, names, strict=True)]
        return {view: self._embed(view, subject.class_noun, files) for view in self.views}

    def of_images(
        self,
        subject: SuiteSubject,
        images: Sequence[ImageFile],
        prompts: Sequence[Prompt],
        contents: Mapping[Path, bytes],
    ) -> dict[str, Any]:
        """Fields of `Batch` for images of one subject; "generated" and "more_texts" add to those of whole images."""
        noun = subject.class_noun
        files = [(one.path, contents[one.path], one.id.path(Path()).relative_to(IMAGES)) for one in images]
        fields: dict[str, Any] = {
            "generated": {view: self._embed(view, noun, files) for view in self.views},
            "more_texts": {},
            "perceptual": self.perceptual,
        }
        if "clip_background" in self.views:
            clip = self.encoders["clip"]
            assert isinstance(clip, ClipEncoder)
            # a prompt without a place gets some text, and no score
            texts = [place_words(prompt) or "a" for prompt in prompts]
            fields["more_texts"]["clip_background"] = clip.embed_texts(texts)
        if self.pixels:
            fields["images"] = _stack([path for path, _, _ in files])
        if self.edits:
            fields["edits"] = tuple(self._edit(noun, path, name) for path, _, name in files)
        return fields

    def _edit(self, noun: str, path: Path, name: Path) -> Edit:
        image, source = (read_image(one, to_srgb=False) for one in (path, self.sources / name))
        if source.size != image.size:
            raise InputError(f"{self.sources / name} and {path} have different sizes; an edit keeps its source's size")
        return Edit(image=np.asarray(image), source=np.asarray(source), mask=self._mask(noun, name, image))

    def _embed(self, view: str, noun: str, files: Sequence[File]) -> FloatArray:
        network, side = VIEWS[view]
        encoder = self.encoders[network]
        cache = EmbeddingCache(self.cache / f"{encoder.key}-{side}")
        keys = [content_hash(content + self._mask_content(noun, name)) for _, content, name in files]
        by_key = dict(zip(keys, files, strict=True))
        lacking = cache.missing(keys)
        for start in range(0, len(lacking), BATCH):
            part = lacking[start : start + BATCH]
            seen = []
            for path, _, name in (by_key[key] for key in part):
                image = read_image(path, to_srgb=False)
                seen.append(keep(image, self._mask(noun, name, image), side, mean_colour(encoder.how)))
            cache.put(part, encoder.embed_images(seen))
        cache.flush()
        return cache.get(keys)

    def _mask(self, noun: str, name: Path, image: Image.Image) -> Mask:
        if self.segmenter is not None:
            return self.segmenter([image], noun)[0]
        return read_mask(self.masks / name, image.size)

    def _mask_content(self, noun: str, name: Path) -> bytes:
        """What a mask is known by: its file, or the words that it is found with."""
        if self.segmenter is not None:
            return f"{SEGMENT} {noun}".encode()
        path = self.masks / name
        try:
            return content_hash(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path} is missing: every image needs its mask there, white on the subject") from error


def load_lpips(
    source: WeightsSource | None = None,
    device: str = "cpu",
    *,
    net: Literal["alex", "squeeze"] = "alex",
    spatial: bool = True,
) -> PerceptualDistance:
    """LPIPS 0.1 (Zhang et al., arXiv 1801.03924), by the package `lpips`: stacks (n, H, W, 3) uint8, at least 31 pixels
    a side -> (n, H, W) float64, from 0; (n, 1, 1), the means over each layer's grid, where not spatial.

    The weights of AlexNet or SqueezeNet are torchvision's, from $BDKIT_WEIGHTS_DIR/lpips-alex/ or lpips-squeeze/, or
    torch.hub's cache; none is downloaded.
    """
    try:
        from lpips import LPIPS  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise InputError("LPIPS needs the package lpips; pip install 'bdkit[lpips]'") from error
    name, inside = LPIPS_FILES[net], f"lpips-{net}"
    folder = (source and source.folder) or os.environ.get(WEIGHTS_DIR_VARIABLE)
    paths = [Path(folder) / inside / name] if folder else []
    paths.append(Path(torch.hub.get_dir()) / "checkpoints" / name)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(
            f"LPIPS needs {name}, torchvision's weights, which is not here: put it in ${WEIGHTS_DIR_VARIABLE}/{inside}/"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses torchvision's old arguments
        # pnet_rand: without it the package downloads the network
        network = LPIPS(net=net, spatial=spatial, pnet_rand=True, verbose=False).eval().requires_grad_(False)
    try:
        state, _ = read_weights(path)
        # slice3.6.weight of the package is features.6.weight of torchvision
        names = {name: f"features.{name.partition('.')[2]}" for name in network.net.state_dict()}
        network.net.load_state_dict({name: state[published] for name, published in names.items()})
    except Exception as error:  # torch raises many kinds for a broken file
        raise InputError(
            f"{path} is broken or does not hold the weights of LPIPS's network ({type(error).__name__}); download it "
            "again"
        ) from error
    network.to(device)

    @torch.inference_mode()
    def distance(first: PixelArray, second: PixelArray) -> FloatArray:
        pairs = [torch.tensor(stack).permute(0, 3, 1, 2).float() / 127.5 - 1 for stack in (first, second)]
        parts = zip(*(stack.to(device).split(BATCH) for stack in pairs), strict=True)
        return torch.cat([network(*part)[:, 0].double().cpu() for part in parts]).numpy()

    return distance


def _stack(paths: Sequence[Path]) -> PixelArray:
    images = [read_image(path, to_srgb=False) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.size != images[0].size:
            raise InputError(f"{path} and {paths[0]} have different sizes; LPIPS compares images of one size")
    return np.stack([np.asarray(image) for image in images])
