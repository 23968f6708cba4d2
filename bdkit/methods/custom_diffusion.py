"""Custom Diffusion (arXiv 2212.04488): a new word, and the keys and values of the cross-attention."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from bdkit.checkpoints.adapters import key_value_tensors, key_values, save_adapter, shared_copy
from bdkit.checkpoints.files import KEY_VALUES, WORD
from bdkit.methods.base import exchanged
from bdkit.methods.textual_inversion import PlaceholderLoss, TextualInversion
from bdkit.models.latent_diffusion import LatentDiffusion
from bdkit.training.finetuning import CAPTION, Snapshot, draw_latents, frozen, subject_loss, training_settings
from bdkit.training.method_config import CustomDiffusionConfig

PREFIX = "unet."


class CustomDiffusionLoss(PlaceholderLoss):
    """Noise prediction on the subject ("photo of a <new1> dog") plus weight x noise prediction on the class ("a dog").

    Args:
        unet: its parameters with ``requires_grad`` are trained, beside the placeholder's embedding.
        embedding, ids, mask: as of `PlaceholderLoss`.
        class_ids: (1, L), the caption of the class.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        unet: UNet2DConditionModel,
        embedding: Tensor,
        ids: Tensor,
        mask: Tensor,
        *,
        class_ids: Tensor,
        prior_loss_weight: float,
    ) -> None:
        super().__init__(model, embedding, ids, mask)
        self.unet, self.prior_loss_weight = unet, prior_loss_weight
        self.shared = (unet, model.text_encoder)
        with torch.no_grad():
            self.class_hidden: Tensor = model.text_encoder(class_ids.to(model.device))

    def forward(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = super().forward(batch[:2], generator)
        if len(batch) == 2:
            return loss, logs
        guide = self.class_hidden.expand(len(batch[2]), -1, -1)
        prior_loss = subject_loss(self.unet, self.scheduler, batch[2], guide, generator)
        return loss + self.prior_loss_weight * prior_loss, {"prior_loss": prior_loss.detach()}


class CustomDiffusion(TextualInversion):
    """The embedding of "<new1>" and the key and value projections of the cross-attention; the rest is shared.

    Departures from the paper, all in its images: those of the class are the model's own, under "a dog", as DreamBooth's
    are (paper: 200 real ones, found by their captions); the subject's are not resized at random (paper: to 0.4 to 1.4
    of their size, with "far away" or "close up" in the caption and the loss inside the image alone).
    """

    name: ClassVar[str] = "custom-diffusion"
    title: ClassVar[str] = "Custom Diffusion"
    config: CustomDiffusionConfig

    def __init__(self, model: LatentDiffusion, config: CustomDiffusionConfig) -> None:
        super().__init__(model, config)
        self._unet = shared_copy(model.unet, tuple(key_values(model.unet).values()))
        for parameter in key_values(self._unet).values():
            parameter.requires_grad_(False)

    def _batches(self, latents: Tensor, class_noun: str) -> Callable[[int, torch.Generator], tuple[Tensor, ...]]:
        """As Textual Inversion's, with as many latents of the class."""
        subject, config = super()._batches(latents, class_noun), self.config
        if not config.prior_loss_weight:
            return subject
        prior = self._prior(class_noun, config.class_images)

        def batches(step: int, generator: torch.Generator) -> tuple[Tensor, ...]:
            return *subject(step, generator), draw_latents(prior, config.batch_size, generator)

        return batches

    def _loss(self, class_noun: str) -> PlaceholderLoss:
        config, model = self.config, self.model
        class_ids, _ = model.tokenize([CAPTION], [class_noun])
        return CustomDiffusionLoss(
            model,
            self._unet,
            self._embedding_of(config.initializer_token),
            *self._caption_ids(class_noun),
            class_ids=class_ids,
            prior_loss_weight=config.prior_loss_weight,
        )

    @contextmanager
    def _training(self) -> Iterator[None]:
        """Gradients for the projections, in float32 and as before any subject; afterwards they are ready to draw."""
        model, weights = self.model, key_values(self._unet)
        dtype = model.unet.dtype
        with (
            frozen(model.unet, model.text_encoder),
            start_token_detached(self._unet),
            training_settings(self._unet, self.config),
        ):
            for name, start in key_values(model.unet).items():
                weights[name].data = start.detach().float().clone()
                weights[name].requires_grad_(True)
            try:
                yield
            finally:
                for parameter in weights.values():
                    parameter.requires_grad_(False).data = parameter.data.to(dtype)
                self._unet.eval()

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        with super()._drawing(), exchanged(self.model, unet=self._unet):
            yield

    def save(self, folder: str | Path) -> Path:
        """The projections as diffusers' ``load_attn_procs`` reads them, the word as ``load_textual_inversion`` does."""
        settings, snapshot = self.fitted_settings, self.selected()
        values = {name: snapshot[PREFIX + name] for name in key_values(self._unet)}
        word = {self.config.placeholder_token: snapshot["placeholder"].unsqueeze(0)}
        files = {KEY_VALUES: key_value_tensors(self._unet, values), WORD: word}
        return save_adapter(folder, files, settings, self.model)

    def _apply(self, snapshot: Snapshot) -> None:
        super()._apply(snapshot)
        with torch.no_grad():
            for name, parameter in key_values(self._unet).items():
                parameter.copy_(snapshot[PREFIX + name])


@contextmanager
def start_token_detached(unet: UNet2DConditionModel) -> Iterator[None]:
    """No gradient through the start token's keys and values, as in the original code: most of the attention is on it.

    The projections may have another precision than the U-Net's other weights within the block.
    """
    dtype = unet.dtype

    def cast_input(layer: nn.Linear, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].to(layer.weight.dtype),)

    def detach(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output = output if dtype == torch.float32 else output.to(dtype)
        return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

    names = key_values(unet)
    modules = unet.named_modules()
    layers = [layer for name, layer in modules if isinstance(layer, nn.Linear) and f"{name}.weight" in names]
    hooks = [layer.register_forward_pre_hook(cast_input) for layer in layers]
    hooks += [layer.register_forward_hook(detach) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
