"""Settings of the two stages beside their training's own, free of torch."""

from dataclasses import dataclass

from bdkit.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MultimodalRepresentationConfig:
    """Multimodal representation learning (stage 1).

    text_length: tokens of a caption, its ends included; longer ones are cut
    projection_size: of the space in which ITC compares images and texts
    min_crop: least share of an image that a random crop keeps; 1: the centre square of every image
    """

    text_length: int = 32
    projection_size: int = 128
    min_crop: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.min_crop <= 1:
            raise InputError(f"min_crop is {self.min_crop}; use a share above 0, up to 1")


@dataclass(frozen=True, kw_only=True)
class SubjectRepresentationConfig:
    """Subject representation learning (stage 2).

    Paper: one learning rate of 2e-6; here: one for each part, because the mini U-Net has seen far less before.
    Paper: the cut-out keeps its position; here: it is mirrored, scaled and shifted at random (``jitter``), because
    otherwise the model copies the reference's pose.
    Paper: all timesteps weigh the same; here: ``noise_weights``, because colours are decided where the noise is strong,
    and there the error of the noise hardly shows them.
    Paper: the image encoder is frozen; here: trained too where ``image_encoder_rate`` is above 0, because the mini one
    has seen 65 thousand images, not 400 million, and its tokens lack what tells individuals apart.
    Paper: all pixels weigh the same; here: the subject's ``subject_weight`` times the background's.

    subject_drop: share of prompts without their subject
    empty_share: share of empty prompts
    unet_rate: learning rate of the U-Net; a part whose rate is 0 is frozen
    text_rate: learning rate of the text encoder
    multimodal_rate: learning rate of queries, Q-Former and projection
    image_encoder_rate: learning rate of the image encoder
    noise_weights: least and largest weight of a timestep's error, 1 / SNR between them
    importance_sampling: draw the timesteps by their weights
    subject_weight: how much an error on the subject counts, where one on the background counts 1
    jitter: mirror, scale and shift the cut-outs at random
    same_image: the input is the target itself, in place of the subject on another background
    subject_text: the multimodal encoder reads the class noun; without it an empty text, when the model is used too
    word_length: tokens of a class noun for the multimodal encoder, its ends included; longer ones are cut
    """

    subject_drop: float = 0.15
    empty_share: float = 0.1
    unet_rate: float = 5e-4
    text_rate: float = 5e-4
    multimodal_rate: float = 3e-4
    image_encoder_rate: float = 0.0
    noise_weights: tuple[float, ...] | None = (0.2, 10.0)
    importance_sampling: bool = False
    subject_weight: float = 1.0
    jitter: bool = True
    same_image: bool = False
    subject_text: bool = True
    word_length: int = 8

    def __post_init__(self) -> None:
        if self.subject_weight <= 0:
            raise InputError(f"subject_weight is {self.subject_weight}; use a number above 0")
        if self.noise_weights is not None and len(self.noise_weights) != 2:
            raise InputError(f"noise_weights is {self.noise_weights}; use two numbers, or none")


@dataclass(frozen=True, kw_only=True)
class RetrievalAugmentedConfig:
    """Re-Imagen's training (arXiv 2209.14491), after the paper, from secondary sources.

    Paper: the whole U-Net is trained; here: the attention to the neighbours alone, so that what is trained is small
    beside the model, which stays as it is.
    Paper: all timesteps weigh the same; here: ``noise_weights``, as in stage 2.
    Paper: a neighbour's text is its caption; here: for ``class_noun_share`` of them "a" and the class noun, which is
    all that is known of a subject's images.
    Paper: BM25 over words; here: over pairs of words too (``word_pairs``), because
    the mini world's captions name no individual, and colours in another order are another one.

    neighbours: how many each image has, by BM25 over the captions, without its own pair
    word_pairs: whether BM25 counts pairs of words, too
    text_drop: share of the prompts that are empty
    neighbour_drop: share of the images that see no neighbours, drawn apart from the other
    detail_share: share of the mini world's prompts that also name colours, pattern and parts
    class_noun_share: share of the neighbours whose text is the class noun alone
    noise_weights: least and largest weight of a timestep's error, 1 / SNR between them; none: all the same
    """

    neighbours: int = 2
    word_pairs: bool = True
    text_drop: float = 0.1
    neighbour_drop: float = 0.1
    detail_share: float = 0.3
    class_noun_share: float = 0.5
    noise_weights: tuple[float, ...] | None = (0.2, 10.0)

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise InputError(f"neighbours is {self.neighbours}; use at least 1")
        for name in ("text_drop", "neighbour_drop", "detail_share", "class_noun_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; use a share from 0 to 1")
        if self.noise_weights is not None and len(self.noise_weights) != 2:
            raise InputError(f"noise_weights is {self.noise_weights}; use two numbers, or none")
