"""The tab *Look inside*: where the 16 subject vectors and the words of the prompt attend to."""

from typing import Any

import gradio as gr
from PIL import Image

from bdkit.editing.attention_maps import attention_maps, figure, map_statistics, mean_by_token, overlay, table
from bdkit.models.prompts import subject_template
from bdkit.utils.errors import InputError
from eval.app.parts import image_grid, work_buttons
from eval.app.studio import HELD_OUT, Studio, Subject, Turn, checked_text
from eval.app.subject import SubjectPanel
from eval.commands.attention import draw_scene

GENERATED, TRUE = "generated", "the mini world's own, with its true mask"
SIDE = 192
PROMPTS = ["a {} in the snow", "a {} in the jungle", "a {} on the beach"]
KINDS = {"subject": "on the subject", "background": "on the background", "global": "everywhere"}


def build(studio: Studio, panel: SubjectPanel) -> None:
    """Lays the tab out and wires it."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Markdown(
                "Noise is added to an image of the subject, and the U-Net's cross-attention is recorded while it "
                "denoises: orange is where a vector or a word is looked for.",
                elem_classes="hint",
            )
            prompt = gr.Textbox(PROMPTS[0], label="Prompt", info="{} stands where the subject goes", max_length=300)
            gr.Examples([[text] for text in PROMPTS], [prompt], label="Try")
            origin = gr.Radio([GENERATED, TRUE], value=GENERATED, label="Image that is looked at")
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
                steps = gr.Slider(1, 50, 10, step=1, label="Timesteps", min_width=150, elem_id="look-steps")
            go, stop, status = work_buttons("look", "Look")
        with gr.Column(scale=3, min_width=300):
            maps = image_grid("look-maps", "Attention", 5, small=True)
    with gr.Accordion("By layer and by noise level", open=False):
        whole = gr.Image(show_label=False, format="png", elem_classes="wide", interactive=False)

    def look(
        name: str,
        noun: str,
        prompt: str,
        origin: str,
        seed: float,
        steps: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio is asked for it)
    ) -> tuple[Any, Any, str]:
        """The attention of each subject vector and word; paths of images, the whole figure's, and a sentence."""

        def work(turn: Turn) -> tuple[list[tuple[str, str]], str]:
            template = subject_template(checked_text(prompt, "the prompt"))
            if template.count("{}") != 1:
                raise InputError("the prompt needs one {} where the subject is, such as 'a {} in the snow'")
            subject = studio.subject(turn.session, name, noun)
            model, words, vectors = studio.drawable(subject)
            shown: dict[str, Any] = {} if vectors is None else {"subject_embeddings": vectors}
            image, mask = scene(subject, template, int(seed)) if origin == TRUE else (None, None)
            with turn.watching(model.unet, int(steps) + (16 if image is None else 0), "looking"):
                if image is None:
                    (image,) = model(template, target_subject=words, seeds=[int(seed)], **shown)
                place = f" {{}} {words} " if vectors is not None else f" {words} "
                text = " ".join(template.replace("{}", place).split())
                found = attention_maps(model, image, text, vectors, steps=int(steps), seed=int(seed))
            rows = mean_by_token(table(found, mask))
            images = [(turn.session.save(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), "image"), "the image")]
            for number, ((label, _), row) in enumerate(zip(found.tokens, rows, strict=True)):
                cell = overlay(found.of(number), image, SIDE)
                said = f"{label}: {KINDS[row['kind']]}" if row["kind"] else label
                images.append((turn.session.save(cell, "map"), said))
            local = sum(map_statistics(found.of(number)).entropy < 0.98 for number in range(len(found.tokens)))
            turn.say(f"{local} of {len(found.tokens)} vectors and words look at one place; {turn.seconds:.1f} s.")
            return images, turn.session.save(figure(found, image, mask), "figure")

        result, status = studio.run(work, request, progress)
        return *((gr.skip(), gr.skip()) if result is None else result), status

    event = go.click(
        look,
        [panel.name, panel.class_noun, prompt, origin, seed, steps],
        [maps, whole, status],
        concurrency_id="easel",
        api_name="look",
        show_progress_on=[maps],
    )
    panel.stops(stop, event, status)


def scene(subject: Subject, template: str, seed: int) -> tuple[Image.Image, Image.Image]:
    """The mini world's own image of a subject and prompt, and the subject's mask."""
    if subject.suite != HELD_OUT:
        raise InputError("the mini world draws its own subjects alone; choose one of them, or a generated image")
    image, mask = draw_scene(f"{HELD_OUT}/{subject.name}", template, seed)
    if image is None or mask is None:
        raise InputError("the mini world draws DreamBench's prompts alone, such as 'a {} in the snow'")
    return image, mask
