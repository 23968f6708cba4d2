"""Stop within a comparison: while a method draws, and while its images are scored."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.weights]


@pytest.mark.parametrize("stage", ["drawing", "scoring"])
def test_a_comparison_ends_where_it_is_stopped(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    from eval.app import studio as studios
    from eval.app.compare import make_images, score, suite_of
    from eval.app.config import AppConfig

    monkeypatch.setattr(studios, "SECONDS_BETWEEN", 0.0)
    studio, said = studios.Studio(AppConfig(), tmp_path), []
    session = studio.session(None)
    subject, out = studio.subject(session, "dog", None), session.folder / "compare"
    suite = suite_of(studio, subject, "a {} in the snow", 1)

    def progress(share: float, desc: str) -> None:
        """Presses Stop at the second sign of the stage."""
        said.append(desc)
        if sum(text.endswith(stage) for text in said) == 2:
            session.stop.set()

    def work(turn: studios.Turn) -> Any:
        make_images(studio, turn, suite, subject, ["base"], 0, out)
        return score(studio, turn, suite, ["base"], out)

    result, status = studio.run(work, None, progress)
    assert result is None
    assert "Stopped." in status
    assert said[-1].endswith(stage)
    assert len(list(out.glob("images/**/*.png"))) == (stage == "scoring")
    assert not list(out.glob("scores.*"))
    assert studio.run(lambda turn: "the next one", None) == ("the next one", "")  # the models are free
