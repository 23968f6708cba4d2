"""What weights expect around them: the prompt's template and the preprocessing of the subject's image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bdkit.models.preprocessing import SubjectPixels
from bdkit.models.prompts import find_template


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How a model was trained to be asked; kept with its weights.

    Args:
        template: name in `PROMPT_TEMPLATES`.
        ctx_begin_pos: where the subject vectors begin in the template "public", the begin-of-text token counted.
        pixels: how a subject's image becomes the image encoder's input.
    """

    template: str = "place"
    ctx_begin_pos: int = 2
    pixels: SubjectPixels = field(default_factory=SubjectPixels)

    def __post_init__(self) -> None:
        find_template(self.template)

    def to_json(self) -> dict[str, Any]:
        """For the record of a saved model."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> Conventions:
        """The inverse of `to_json`; None, of a record without them, gives the defaults."""
        if content is None:
            return cls()
        pixels = dict(content["pixels"])
        pixels |= {name: tuple(pixels[name]) for name in ("mean", "std")}
        return cls(**{**content, "pixels": SubjectPixels(**pixels)})
