"""How many steps a subject needs, from its images alone: the rule of `steps="auto"`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LOSS = "reference_loss"  # in the history of a fit, after the steps that the rule looks at


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """Ends a fit where the loss on the subject's images gets flat.

    The loss is the noise prediction's over all images, with the same timesteps and noise at each look, so it changes by
    the fit alone. What counts is the lowest so far. It is flat where the last `window` steps brought at most `flat` of
    its whole fall. A share has no scale, so the rule is the same for every size, image and learning rate.

    least: steps that every fit takes
    most: steps that no fit exceeds
    every: steps between two looks; least, most and window are multiples of it
    window: steps
    flat: share of the fall
    """

    # Paper (Sec. 3.3): 40 to 120 steps, chosen for each subject by looking at validation prompts, 76 on average; here:
    # by the loss on its images, because a command has neither validation prompts nor eyes. Tuned on mini-dev.
    least: int = 40
    most: int = 120
    every: int = 10
    window: int = 20
    flat: float = 0.2

    def looks_after(self, step: int) -> bool:
        """Whether the loss is measured after so many steps; 0 is before the fit."""
        return step % self.every == 0

    def reason(self, history: Sequence[Mapping[str, Any]]) -> str | None:
        """Why the fit ends after the last step of its history, a clause; None: it goes on.

        history: a dict a step, in order, with "step" and, after the steps that the rule looks at (0 is the first),
            "reference_loss"
        """
        looks = {entry["step"]: entry[LOSS] for entry in history if LOSS in entry}
        step = history[-1]["step"]
        if step not in looks or step < self.least:
            return None
        start, now = looks[0], min(looks.values())
        before = min(loss for at, loss in looks.items() if at <= step - self.window)
        flat = before - now <= self.flat * (start - now)
        if not flat and step < self.most:
            return None
        share = (before - now) / (start - now) if now < start else 0.0
        why = f"at most {self.flat:.0%}" if flat else "no fit takes more"
        return (
            f"the last {self.window} steps brought {share:.0%} of the fall of the loss on the subject's images, from "
            f"{start:.4f} to {now:.4f}: {why}"
        )


STOPPING = StoppingRule()
