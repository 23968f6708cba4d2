"""The scenes of edit-mini and control-mini, as data: a subject of the mini world is replaced by another.

The right answer is known. A scene is a place, who stands there (another individual for every scene) and who shall stand
there instead (one of the 30 procedural subjects of a suite). In even scenes both have the same class, in odd ones they
do not.
"""

from dataclasses import dataclass

from bdkit.utils.errors import InputError
from bdkit.utils.seeds import derive_seed
from dreambench.registry import class_nouns, load_suite
from dreambench.suites import Suite, SuiteSubject

EDIT_MINI = "edit-mini"
CONTROL_MINI = "control-mini"  # keeps the scene's edges instead
N_SCENES = 100
SPLITS = {"test": "mini@0", "dev": "mini-dev"}
"""Split of the subjects -> the suite that has them; settings are tuned on "dev" alone."""


@dataclass(frozen=True, kw_only=True)
class EditScene:
    """One scene.

    index: from 0
    context: where, in DreamBench's words, such as "in the jungle"
    source_noun: class of who stands there
    subject: who shall stand there instead
    seed: of the source's individual, pose, light and background, and of a generated source
    """

    index: int
    context: str
    source_noun: str
    subject: SuiteSubject
    seed: int

    @property
    def name(self) -> str:
        """Three digits and what happens: "007-cat-to-dog2"."""
        return f"{self.index:03d}-{self.source_noun}-to-{self.subject.name}".replace(" ", "_")

    @property
    def source_prompt(self) -> str:
        """Such as "a cat in the jungle"."""
        return f"a {self.source_noun} {self.context}"

    @property
    def target_prompt(self) -> str:
        """Such as "a {} dog in the jungle"; the subject's vectors replace the braces."""
        return f"a {{}} {self.subject.class_noun} {self.context}"

    @property
    def same_class(self) -> bool:
        return self.source_noun == self.subject.class_noun


@dataclass(frozen=True, kw_only=True)
class EditMiniConfig:
    """edit-mini and control-mini alone.

    scenes: measure only the first so many of the 100 scenes
    split: test, or dev: other subjects, on which the settings were tuned
    """

    scenes: int = N_SCENES
    split: str = "test"

    def __post_init__(self) -> None:
        if not 1 <= self.scenes <= N_SCENES:
            raise InputError(f"edit-mini has {N_SCENES} scenes; --scenes {self.scenes} is no number of them")
        if self.split not in SPLITS:
            raise InputError(f"unknown split {self.split!r} of edit-mini; use {' or '.join(SPLITS)}")


def edit_suite(split: str) -> Suite:
    """The suite whose subjects a split of edit-mini takes."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r} of edit-mini; use {' or '.join(SPLITS)}")
    return load_suite(SPLITS[split])


def edit_scenes(split: str = "test", count: int = N_SCENES) -> tuple[EditScene, ...]:
    """The first ``count`` scenes of a split; the same on every machine."""
    if not 1 <= count <= N_SCENES:
        raise InputError(f"edit-mini has {N_SCENES} scenes; {count} is not a number of them")
    suite = edit_suite(split)
    contexts = [prompt.template for prompt in suite.live_prompts if prompt.kind == "context"]
    contexts = [template.replace("a {} {} ", "") for template in contexts]
    contexts += [
        template
        for p in suite.object_prompts
        if p.kind == "context"
        if (template := p.template.replace("a {} {} ", "")) not in contexts
    ]
    scenes = []
    for index in range(count):
        seed = derive_seed("edit-mini", split, index)
        # a permutation of the subjects each round, so that every subject comes equally often
        order = sorted(range(len(suite.subjects)), key=lambda k: derive_seed("edit-mini", split, index // 30, k))
        subject = suite.subjects[order[index % len(order)]]
        others = [noun for noun in class_nouns() if noun != subject.class_noun]
        source_noun = subject.class_noun if index % 2 == 0 else others[derive_seed(seed, "noun") % len(others)]
        context = contexts[derive_seed(seed, "context") % len(contexts)]
        scenes.append(EditScene(index=index, context=context, source_noun=source_noun, subject=subject, seed=seed))
    return tuple(scenes)
