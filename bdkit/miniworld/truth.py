"""What a scene shows, as numbers: the labels for classifiers, and the oracle of the mini benchmark."""

from dataclasses import asdict
from typing import Any

from bdkit.miniworld.changes import CHANGES
from bdkit.miniworld.contexts import CONTEXTS, STUDIO
from bdkit.miniworld.drawing.patterns import PATTERNS
from bdkit.miniworld.outfits import OUTFITS
from bdkit.miniworld.scenes import Scene
from bdkit.miniworld.subjects import CLASSES, seed_of, split_of

N_CLASSES, N_CONTEXTS, N_OUTFITS, N_CHANGES = len(CLASSES), len(CONTEXTS) + 1, len(OUTFITS) + 1, len(CHANGES) + 1

_CLASS_INDEX = {name: i for i, name in enumerate(CLASSES)}
_CONTEXT_INDEX = {name: i for i, name in enumerate((*CONTEXTS, STUDIO))}
_OUTFIT_INDEX = {name: i for i, name in enumerate((None, *OUTFITS))}
_CHANGE_INDEX = {name: i for i, name in enumerate((None, *CHANGES))}
_PATTERN_INDEX = {name: i for i, name in enumerate(PATTERNS)}


def truth(scene: Scene) -> dict[str, Any]:
    """Labels of a scene.

    class_index 0..14; context_index 0..19, studio = 20; outfit_index and change_index, 0 = none; pattern_index;
    identity: a 64-bit number that is the same for all scenes of one subject; split; pose: its fields;
    colours: the subject's own three RGB colours (before a change).
    """
    subject = scene.subject
    return {
        "class_index": _CLASS_INDEX[subject.class_noun],
        "context_index": _CONTEXT_INDEX[scene.context],
        "outfit_index": _OUTFIT_INDEX[scene.outfit],
        "change_index": _CHANGE_INDEX[scene.change],
        "pattern_index": _PATTERN_INDEX[subject.pattern],
        "identity": seed_of("identity", subject),
        "split": split_of(subject),
        "colours": subject.colours,
        "pose": asdict(scene.pose),
    }
