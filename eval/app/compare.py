"""The tab *Compare*: one prompt, every method side by side, with the scores of `bdkit score`."""

import html
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from PIL import Image

from bdkit.methods import build_method, method_config
from bdkit.methods.presets import DEFAULT_PRESET
from bdkit.models.prompts import subject_template
from bdkit.training.config import FewStepConfig
from bdkit.utils.env import pick_device
from bdkit.utils.errors import InputError
from bdkit.utils.images import write_png
from dreambench.suites import Prompt, Suite, SuiteSubject
from eval.app.parts import work_buttons
from eval.app.studio import Studio, Subject, Turn, checked_text
from eval.app.subject import SubjectPanel, data_url
from eval.experiments import SMALL_MODELS, TABLE1, Row
from eval.results_dir import REFERENCES, save_suite, subject_ids
from eval.score.metrics import METRICS
from eval.score.score import ScoreOptions, score_folder
from eval.score.weights import WeightsSource, load_evaluators

ROWS = {row.name: row for row in (*TABLE1, Row(name="dreambooth-lora", method="dreambooth-lora"))}
FIRST = ("base", "blip-diffusion-zero-shot", "blip-diffusion-finetuned")
COMPARED = "subject"
SHOWN = ("dino", "clip_i", "clip_t", "identity", "prompt_right")
MOST_SAMPLES = 3
LARGEST = 512  # pixels of an image in the table


def build(studio: Studio, panel: SubjectPanel) -> None:
    """Lays the tab out and wires it."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(
                "a {} in the snow", label="Prompt", info="{} stands where the subject goes", max_length=300
            )
            chosen = gr.CheckboxGroup(list(ROWS), value=list(FIRST), label="Methods", elem_id="compare-methods")
            with gr.Row():
                samples = gr.Slider(1, MOST_SAMPLES, 1, step=1, label="Images of each", min_width=140)
                steps = gr.Slider(
                    0, studio.config.max_steps, 0, step=1, label="Training steps", info="0: the preset's",
                    min_width=140, elem_id="compare-steps",
                )  # fmt: skip
            go, stop, status = work_buttons("compare", "Compare")
        with gr.Column(scale=3, min_width=300):
            rows = gr.HTML(elem_id="compare-rows")

    def compare(
        name: str,
        noun: str,
        prompt: str,
        chosen: list[str],
        samples: float,
        steps: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio is asked for it)
    ) -> tuple[Any, str]:
        """Fits and draws with every chosen method and scores the images; a table as HTML, and a sentence."""

        def work(turn: Turn) -> str:
            names = [one for one in ROWS if one in chosen]
            if not names:
                raise InputError("no method is chosen; choose at least one")
            if not 1 <= samples <= MOST_SAMPLES or not 0 <= steps <= studio.config.max_steps:
                raise InputError(f"use 1 to {MOST_SAMPLES} images and at most {studio.config.max_steps} steps")
            template = subject_template(checked_text(prompt, "the prompt"))
            if template.count("{}") != 1:
                raise InputError("the prompt needs one {} where the subject goes, such as 'a {} in the snow'")
            subject = studio.subject(turn.session, name, noun)
            if not subject.images:
                raise InputError(f"{name} is fine-tuned already; choose a subject with images")
            suite = suite_of(studio, subject, template, int(samples))
            out = turn.session.folder / "compare"
            shutil.rmtree(out, ignore_errors=True)
            seconds = make_images(studio, turn, suite, subject, names, int(steps), out)
            scores, problem = score(studio, turn, suite, names, out)
            turn.say(f"{len(names)} methods in {turn.seconds:.0f} s{problem}.", "plain" if problem else "good")
            return table(turn, suite, names, scores, seconds, out)

        shown, status = studio.run(work, request, progress)
        return gr.skip() if shown is None else shown, status

    event = go.click(
        compare,
        [panel.name, panel.class_noun, prompt, chosen, samples, steps],
        [rows, status],
        concurrency_id="easel",
        api_name="compare",
        show_progress_on=[rows],
    )
    panel.stops(stop, event, status)


def suite_of(studio: Studio, subject: Subject, template: str, samples: int) -> Suite:
    """A suite of one subject and one prompt, which is what scoring reads; the mini world's truth counts where known."""
    prompt = Prompt(0, template.replace("{}", "{} {}"), "context")
    held_out = [one for one in studio.suite.subjects if subject.suite and one.name == subject.name]
    known = [one for owner in held_out for one in studio.suite.prompts(owner) if one.template == prompt.template]
    one = SuiteSubject(COMPARED, subject.class_noun, True, len(subject.images), prompts=(*known, prompt)[:1])
    if known:
        return Suite("compare", (one,), (), (), samples, "procedural", studio.suite.seed, studio.suite.split)
    return Suite("compare", (one,), (), (), samples, "photos")


def make_images(
    studio: Studio, turn: Turn, suite: Suite, subject: Subject, names: Sequence[str], steps: int, out: Path
) -> dict[str, float]:
    """Writes the references and every method's images as a bench does; the seconds of each method."""
    save_suite(suite, out)
    for number, image in enumerate(subject.images):
        write_png(image, out / REFERENCES / COMPARED / f"{number:02d}.png")
    (prompt,) = suite.subjects[0].prompts
    preset, seconds = studio.model.record.get("method_preset", DEFAULT_PRESET), {}
    for number, name in enumerate(names):
        began, row = turn.seconds, ROWS[name]
        overrides = dict(row.overrides)
        if isinstance(config := method_config(row.method, preset, **overrides), FewStepConfig) and config.steps:
            overrides["steps"] = row.snapshot or steps or config.steps
        turn.check(number / len(names), f"{name}: loading")
        method: Any = build_method(row.method, studio.model, **overrides)
        total = overrides.get("steps", 0)

        def on_step(step: int, loss: float, number: int = number, name: str = name, total: int = total) -> None:
            turn.check((number + step / (total + 10)) / len(names), f"{name}: step {step} of {total}")

        method.on_step = on_step
        with turn.watching(studio.model.unet, 10**9, f"{name}: images of the class"):
            method.fit(list(subject.images), subject.class_noun, 0)
        method.on_step = None
        ids = subject_ids(suite, name, 0, suite.subjects[0])
        method.callback = lambda *_, number=number, name=name: turn.check(
            (number + 0.9) / len(names), f"{name}: drawing"
        )
        drawn = method.generate(prompt.template, subject.class_noun, [one.sample for one in ids])
        for one, image in zip(ids, drawn, strict=True):
            write_png(image, one.path(out))
        seconds[name] = turn.seconds - began
    return seconds


def score(studio: Studio, turn: Turn, suite: Suite, names: Sequence[str], out: Path) -> tuple[pd.DataFrame | None, str]:
    """The scores of all images, or why there are none."""
    turn.check(0.97, "scoring")
    protocol = "mini" if studio.config.model in SMALL_MODELS else "dreambench"
    try:
        evaluators = load_evaluators(protocol, pick_device(), WeightsSource(offline=True))
    except InputError as error:
        return None, f"; no scores, because {error}"
    options = ScoreOptions(workers=0)
    with ExitStack() as watched:
        for encoder in evaluators.networks.values():
            watched.enter_context(turn.watching(encoder.network, 10**9, "scoring"))
        return score_folder(out, evaluators, options=options, show_progress=False), ""


def table(
    turn: Turn, suite: Suite, names: Sequence[str], scores: pd.DataFrame | None, seconds: dict[str, float], out: Path
) -> str:
    """A card a method: its images, scores and seconds; the best of each score is marked."""
    means: dict[tuple[str, str], float] = {}
    if scores is not None:
        for row in scores.groupby(["method", "metric"], as_index=False)["value"].mean().itertuples():
            means[str(row.method), str(row.metric)] = float(row.value)
    metrics = [metric for metric in SHOWN if any((name, metric) in means for name in names)]
    best = {metric: max(means[name, metric] for name in names) for metric in metrics}
    cards = []
    for name in names:
        ids = subject_ids(suite, name, 0, suite.subjects[0])
        shown = [data_url(Image.open(one.path(out)), LARGEST) for one in ids]
        images = "".join(f'<img src="{url}" alt="an image of {html.escape(name)}">' for url in shown)
        values = "".join(
            f"<dt>{METRICS[metric].title}</dt>"
            f'<dd class="{"best" if means[name, metric] == best[metric] else ""}">{means[name, metric]:.3f}</dd>'
            for metric in metrics
        )
        cards.append(
            f'<figure class="card"><div>{images}</div><figcaption><b>{html.escape(name)}</b>'
            f"<dl>{values}<dt>seconds</dt><dd>{seconds[name]:.1f}</dd></dl></figcaption></figure>"
        )
    return f'<div class="cards">{"".join(cards)}</div>'
