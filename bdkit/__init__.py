"""bdkit: BLIP-Diffusion (arXiv 2305.14720) end to end, at laptop scale and at full size. Names load when first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bdkit.methods import METHODS, build_method
    from bdkit.methods.presets import METHOD_PRESETS
    from bdkit.models.blip_diffusion import BlipDiffusion
    from bdkit.utils.errors import InputError

__version__ = "0.1.0"

_HOMES = {
    "BlipDiffusion": "bdkit.models.blip_diffusion",
    "InputError": "bdkit.utils.errors",
    "METHODS": "bdkit.methods",
    "METHOD_PRESETS": "bdkit.methods.presets",
    "build_method": "bdkit.methods",
}
__all__ = ["METHODS", "METHOD_PRESETS", "BlipDiffusion", "InputError", "__version__", "build_method"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bdkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
