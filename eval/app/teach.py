"""The tab *Teach*: few-step fine-tuning on the chosen images, watched; what it learns can be drawn afterwards."""

import queue
import secrets
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from bdkit.methods import build_method, method_config
from bdkit.methods.presets import DEFAULT_PRESET
from bdkit.models.prompts import subject_template
from bdkit.utils.errors import InputError
from eval.app.parts import image_grid, work_buttons
from eval.app.sessions import MAX_TAUGHT
from eval.app.studio import Studio, Turn, checked_text, sentence
from eval.app.subject import SubjectPanel

METHOD = "blip-diffusion"
SMOOTHED = 10  # steps whose mean is the smooth line
MAX_PREVIEWS = 24
WIDTH, HEIGHT, LEFT = 640, 170, 4  # of the drawing of the loss
END = "end"


def build(studio: Studio, panel: SubjectPanel) -> None:
    """Lays the tab out and wires it."""
    config = method_config(METHOD, studio.model.record.get("method_preset", DEFAULT_PRESET))
    most = studio.config.max_steps
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Markdown(
                "A few steps of fine-tuning on the images above (Sec. 3.3 of the paper). When it ends, the subject "
                "that was learned is chosen above, for *Draw* and *Edit*.",
                elem_classes="hint",
            )
            steps = gr.Slider(1, most, min(config.steps, most), step=1, label="Steps", elem_id="teach-steps")
            prompt = gr.Textbox("a {} on the beach", label="Preview", max_length=300)
            every = gr.Slider(1, 100, 10, step=1, label="A preview every so many steps", elem_id="teach-every")
            with gr.Accordion("More", open=False), gr.Row():
                rate = gr.Number(config.learning_rate, label="Learning rate", minimum=0, maximum=1)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            go, stop, status = work_buttons("teach", "Teach", "Cancel")
            with gr.Row():
                keep = gr.Button("Stop and keep", elem_id="teach-keep", min_width=120, size="md")
                save = gr.Button("Download", elem_id="teach-save", min_width=120, size="md")
            saved = gr.File(
                label="The fine-tuned folder", interactive=False, visible=False, height=80, elem_id="teach-saved"
            )
        with gr.Column(scale=3, min_width=300):
            curve = gr.HTML(curve_of([]), elem_id="teach-loss", padding=True, container=True)
            previews = image_grid("teach-previews", "Previews", 4)

    def teach(
        name: str, noun: str, steps: float, prompt: str, every: float, rate: float, seed: float, request: gr.Request
    ) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Fine-tunes on a subject's images: the loss and previews as they come, in the end the learned subject."""
        news: queue.Queue[tuple[str, Any]] = queue.Queue()

        def work(turn: Turn) -> str:
            return lesson(studio, turn, news, name, noun, int(steps), prompt, int(every), float(rate), int(seed))

        threading.Thread(target=lambda: news.put((END, studio.run(work, request))), daemon=True).start()
        losses: list[float] = []
        shown: list[tuple[str, str]] = []
        ended = False
        try:
            while not ended:
                arrived = [news.get()]
                while not news.empty():
                    arrived.append(news.get())
                said: Any = sentence(f"Step {len(losses)} of {int(steps)}.", "plain")
                chosen: Any = gr.skip()
                for kind, value in arrived:
                    if kind == "loss":
                        losses.append(value)
                        said = sentence(f"Step {len(losses)} of {int(steps)}, loss {value:.4f}.", "plain")
                    elif kind == "preview":
                        shown.append(value)
                    else:
                        learned, said = value
                        ended = True
                        if learned is not None:
                            choices = studio.names(studio.session(request))
                            chosen = gr.update(choices=choices, value=learned)
                previewed = any(kind == "preview" for kind, _ in arrived)
                yield curve_of(losses), list(shown) if previewed or ended else gr.skip(), said, chosen
        finally:
            if not ended:  # the page was closed, or Cancel was pressed
                studio.session(request).stop.set()

    inputs = [panel.name, panel.class_noun, steps, prompt, every, rate, seed]
    outputs = [curve, previews, status, panel.name]
    event = go.click(teach, inputs, outputs, concurrency_id="easel", api_name="teach", show_progress="hidden")
    panel.stops(stop, event, status)

    def stop_and_keep(request: gr.Request) -> str:
        """Ends the lesson and keeps what was learned."""
        studio.session(request).keep.set()
        return sentence("Stopping after this step.", "plain")

    keep.click(stop_and_keep, None, status, queue=False, api_name=False)

    def download(name: str, request: gr.Request) -> tuple[Any, str]:
        """The folder of a subject that was taught here, as a zip file."""
        shown, status = studio.run(lambda turn: zipped(turn, name), request)
        return gr.skip() if shown is None else gr.update(value=shown, visible=True), status

    save.click(download, panel.name, [saved, status], concurrency_id="easel", api_name="download")


def lesson(
    studio: Studio,
    turn: Turn,
    news: "queue.Queue[tuple[str, Any]]",
    name: str,
    noun: str,
    steps: int,
    prompt: str,
    every: int,
    rate: float,
    seed: int,
) -> str:
    """Fine-tunes, tells ``news`` of losses and previews, and keeps the learned subject in the session; its name."""
    if not 1 <= steps <= studio.config.max_steps:
        raise InputError(f"{steps} steps; use 1 to {studio.config.max_steps}")
    if every < 1 or steps // every > MAX_PREVIEWS:
        raise InputError(f"a preview every {every} steps are {steps // max(1, every)}; at most {MAX_PREVIEWS} are made")
    session, template = turn.session, subject_template(checked_text(prompt, "the preview's prompt"))
    subject = studio.subject(session, name, noun)
    if not subject.images:
        raise InputError(f"{name} is fine-tuned already; choose a subject with images")
    if template.count("{}") != 1:
        raise InputError("the preview's prompt needs one {} where the subject goes, such as 'a {} on the beach'")
    method: Any = build_method(METHOD, studio.model, steps=steps, learning_rate=rate, snapshots=())
    done = 0

    def on_step(step: int, loss: float) -> bool:
        nonlocal done
        done = step
        turn.check()
        news.put(("loss", loss))
        if step % every == 0 or step == steps:
            (image,) = method.generate(template, subject.class_noun, [seed])
            news.put(("preview", (session.save(image, "preview"), f"step {step}")))
        return session.keep.is_set()

    method.on_step = on_step
    method.fit(list(subject.images), subject.class_noun, seed)
    number = 1 + max((int(path.name.rpartition("-")[2]) for path in session.taught.values()), default=0)
    learned = f"taught here {number}: {subject.class_noun}, {done} steps"
    folder = session.folder / f"taught-{number}"
    method.save(folder)
    if len(session.taught) >= MAX_TAUGHT:
        shutil.rmtree(session.taught.pop(next(iter(session.taught))), ignore_errors=True)
    session.taught[learned] = folder
    turn.say(f"Learned in {done} steps and {turn.seconds:.1f} s; “{learned}” is chosen above.")
    return learned


def zipped(turn: Turn, name: str) -> str:
    """The path of a zip file with a taught subject's folder; the page's last one makes room for it."""
    if name not in turn.session.taught:
        raise InputError("only what was taught in this page can be downloaded; teach a subject, or choose it above")
    folder = turn.session.taught[name]
    for old in turn.session.folder.glob("*/*.zip"):
        old.unlink()
    path = turn.session.folder / secrets.token_hex(8) / f"{folder.name}.zip"
    path.parent.mkdir()
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:  # weights hardly shrink
        for number, file in enumerate(files):
            turn.check(number / len(files), "packing")
            archive.write(file, Path(folder.name) / file.relative_to(folder))
    turn.say(f"{path.name} is below. Unpacked, bdkit generate --model {folder.name} draws what it holds.")
    return str(path)


def curve_of(losses: list[float]) -> str:
    """The loss of each step and its running mean, as a drawing (SVG)."""
    means = [sum(losses[max(0, n - SMOOTHED) : n]) / min(n, SMOOTHED) for n in range(1, len(losses) + 1)]
    top = max(losses, default=1.0) or 1.0
    lines = "".join(
        f'<polyline class="{name}" points="{_points(values, top)}"/>'
        for name, values in (("each", losses), ("mean", means))
    )
    last = f", from 0 to {top:.3g}, last {losses[-1]:.3g}" if losses else ""
    return (
        f'<figure class="curve"><figcaption>Loss by step{last} <i>mean of the last {SMOOTHED} in green</i></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss by step">{lines}</svg></figure>'
    )


def _points(values: list[float], top: float) -> str:
    wide = max(1, len(values) - 1)
    return " ".join(
        f"{LEFT + (WIDTH - LEFT - 4) * n / wide:.1f},{HEIGHT - 6 - (HEIGHT - 14) * value / top:.1f}"
        for n, value in enumerate(values)
    )
