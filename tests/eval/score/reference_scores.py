"""Scores computed the long way: plain loops over pairs in float64, PIL and numpy. It shares no code with `eval`."""

import math

import numpy as np
import open_clip
import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
S16, S8 = "vit_small_patch16_224.dino", "vit_small_patch8_224.dino"
# DINO's network and resize, which references, CLIP-T's text, factor and floor, by the rows of the protocol's table
VARIANTS = {
    "dreambench": (S16, "256", "all", "class", 1, None),
    "dino-s8": (S8, "256", "all", "class", 1, None),
    "dino-squash": (S16, "squash", "all", "class", 1, None),
    "dino-248": (S16, "248", "all", "class", 1, None),
    "one-reference": (S16, "256", "first", "class", 1, None),
    "random-reference": (S16, "256", "given", "class", 1, None),
    "text-with-token": (S16, "256", "all", "token", 1, None),
    "text-background": (S16, "256", "all", "background", 1, None),
    "text-rewritten": (S16, "256", "all", "rewritten", 1, None),
    "clip-t-x100": (S16, "256", "all", "class", 100, None),
    "clip-score": (S16, "256", "all", "class", 2.5, 0),
}


def dino_network(name, file=None, depth=12):
    network = timm.create_model(name, pretrained=False, num_classes=0, depth=depth)
    return network.double().eval() if file is None else _loaded(network, file)


def clip_network(file=None, depth=12):
    vision = {"layers": depth, "width": 768, "patch_size": 32, "image_size": 224}
    texts = {"layers": depth, "width": 512, "heads": 8, "context_length": 77, "vocab_size": 49408}
    network = open_clip.CLIP(512, vision, texts, quick_gelu=True)
    return network.double().eval() if file is None else _loaded(network, file)


def _loaded(network, file):
    network.load_state_dict(load_file(file))
    return network.double().eval()


def pixels(path, resize, mean, std):
    """(1, 3, 224, 224) float64."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if resize == "squash":
        image = image.resize((224, 224), Image.Resampling.BILINEAR)
    else:
        side, (width, height) = int(resize), image.size
        if width <= height:
            image = image.resize((side, math.floor(side * height / width)), Image.Resampling.BICUBIC)
        else:
            image = image.resize((math.floor(side * width / height), side), Image.Resampling.BICUBIC)
        left, top = round((image.size[0] - 224) / 2), round((image.size[1] - 224) / 2)
        image = image.crop((left, top, left + 224, top + 224))
    array = (np.asarray(image).astype(np.float64) / 255 - mean) / std
    return torch.from_numpy(array.transpose(2, 0, 1)[None].copy())


def cosine(a, b):
    total = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return total / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def clip_text(network, tokenizer, text):
    tokens = tokenizer([text])
    with torch.no_grad():
        return network.encode_text(tokens)[0].numpy()


def score(name, dino_of, clip_of, text_of, images, references, given):
    """{(subject, prompt, sample): (DINO, CLIP-I, CLIP-T)}.

    dino_of(network, resize, path), clip_of(path), text_of(text): embeddings
    images: {(subject, prompt, sample): (path, {kind of text: text})}; references: {subject: [path]}
    given: {key of an image: index of the reference that it is compared with}
    """
    network, resize, which, text, factor, floor = VARIANTS[name]
    found = {}
    for key, (path, texts) in images.items():
        others = references[key[0]]
        others = {"all": others, "first": others[:1], "given": [others[given[key]]]}[which]
        dino = [cosine(dino_of(network, resize, path), dino_of(network, resize, other)) for other in others]
        clip = [cosine(clip_of(path), clip_of(other)) for other in others]
        prompt = factor * cosine(clip_of(path), text_of(texts[text]))
        prompt = prompt if floor is None else max(prompt, floor)
        found[key] = (sum(dino) / len(dino), sum(clip) / len(clip), prompt)
    return found
