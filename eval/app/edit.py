"""The tab *Edit*: another subject in an image that otherwise stays; the mask is painted, found, or none."""

from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from bdkit.editing.edit import edit as edit_image
from bdkit.editing.edit import edited_word
from bdkit.editing.edit_presets import PRESETS
from bdkit.utils.errors import InputError
from eval.app.parts import work_buttons
from eval.app.studio import Studio, Turn, checked_text
from eval.app.subject import CANVAS, SubjectPanel, enlarged, image_box

GENERATED, UPLOADED = "generated", "my image"
FOUND, PAINTED, NONE = "found by attention", "painted", "none"
MASKS = {NONE: "none"}  # where it is found, the preset says how
EXAMPLES = [["a {cat} in the snow"], ["a {dog} on the beach"], ["a {vase} in the jungle"]]


def build(studio: Studio, panel: SubjectPanel) -> None:
    """Lays the tab out and wires it."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            described = gr.Textbox(
                "a {cat} in the snow", label="What the source shows", max_length=300, elem_id="edit-from",
                info="the word in braces becomes your subject",
            )  # fmt: skip
            gr.Examples(EXAMPLES, [described], label="Try")
            with gr.Row():
                origin = gr.Radio([GENERATED, UPLOADED], value=GENERATED, label="Source", elem_id="edit-origin")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
            holder = gr.Column(visible=False)
            show = gr.Button("Show the source", elem_id="edit-show", size="md")
            mask = gr.Radio([FOUND, PAINTED, NONE], value=FOUND, label="Mask", elem_id="edit-mask")
            with gr.Accordion("More", open=False):
                target = gr.Textbox(
                    "", label="What it shall show", max_length=300,
                    info="empty: the subject in place of the word; else with {} before the subject's word",
                )  # fmt: skip
                preset = gr.Dropdown(list(PRESETS), value="fixed", label="Preset", info="lavis: the published code")
                cross = gr.Slider(0, 1, 0.8, step=0.05, label="Share of steps with the source's cross-attention")
                threshold = gr.Slider(0.05, 0.95, 0.25, step=0.05, label="Threshold of the mask that is found")
            go, stop, status = work_buttons("edit", "Edit")
        with gr.Column(scale=3, min_width=300):
            canvas = gr.ImageEditor(
                label="Source: paint here", type="pil", format="png", sources=(), layers=False,
                transforms=(), canvas_size=(CANVAS, CANVAS), height=420, elem_id="edit-canvas",
                brush=gr.Brush(default_size=60, colors=["#ffffff"], color_mode="fixed"),
            )  # fmt: skip
            slider = gr.ImageSlider(
                label="Before and after", format="png", elem_id="edit-slider", interactive=False, max_height=420
            )
            used = gr.Image(label="Mask that was used", format="png", interactive=False, elem_id="edit-used",
                            elem_classes="tiny", height=150, buttons=["download"])  # fmt: skip
        with holder:
            image_box(studio, "edit", "Your image", canvas, status)
    origin.change(lambda name: gr.update(visible=name == UPLOADED), origin, holder, api_name=False, queue=False)

    def source_of(turn: Turn, origin: str) -> Image.Image | None:
        if origin != UPLOADED:
            return None
        if "edit" not in turn.session.sources:
            raise InputError("there is no image of yours to edit yet; drop one into the box, or generate the source")
        return turn.session.sources["edit"]

    def show_source(
        described: str,
        origin: str,
        seed: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio is asked for it)
    ) -> tuple[Any, str]:
        """The source, to paint on."""

        def work(turn: Turn) -> str:
            image = source_of(turn, origin)
            if image is None:
                plain = checked_text(described, "the description").replace("{", "").replace("}", "")
                with turn.watching(studio.model.unet, studio.model.defaults.num_inference_steps, "drawing the source"):
                    (image,) = studio.model(plain, seeds=[int(seed)])
            return turn.session.save(enlarged(image), "source")

        shown, status = studio.run(work, request, progress)
        return gr.skip() if shown is None else shown, status

    def edit(
        name: str,
        noun: str,
        described: str,
        origin: str,
        seed: float,
        mask: str,
        target: str,
        preset: str,
        cross: float,
        threshold: float,
        canvas: dict[str, Any] | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, Any, str]:
        """Puts the subject into the source; paths of source and result, of the mask, and a sentence."""

        def work(turn: Turn) -> tuple[tuple[str, str], str | None]:
            source, words = source_of(turn, origin), checked_text(described, "the description")
            subject = studio.subject(turn.session, name, noun)
            model, called, vectors = studio.drawable(subject)
            painted = painted_mask(canvas) if mask == PAINTED else None
            calls = model.defaults.num_inference_steps * (1 if source is None else 2)
            with turn.watching(model.unet, calls, "editing"):
                result = edit_image(
                    model,
                    source,
                    words,
                    target_prompt(words, checked_text(target, "what it shall show"), called, vectors is not None),
                    subject_embeddings=vectors,
                    mask=MASKS.get(mask) if painted is None else painted,
                    preset=preset,
                    seed=int(seed),
                    cross_replace_steps=float(cross),
                    threshold=float(threshold),
                )
            turn.say(f"Edited in {turn.seconds:.1f} s; drag the line to compare.")
            pair = turn.session.save(result.source, "before"), turn.session.save(result.image, "after")
            return pair, None if result.mask is None else turn.session.save(result.mask, "mask")

        result, status = studio.run(work, request, progress)
        return *((gr.skip(), gr.skip()) if result is None else result), status

    show.click(show_source, [described, origin, seed], [canvas, status], concurrency_id="easel", api_name="edit_source")
    inputs = [panel.name, panel.class_noun, described, origin, seed, mask, target, preset, cross, threshold, canvas]
    event = go.click(
        edit, inputs, [slider, used, status], concurrency_id="easel", api_name="edit", show_progress_on=[slider]
    )
    panel.stops(stop, event, status)


def target_prompt(described: str, target: str, words: str, has_vectors: bool) -> str:
    """What the edit shall show: as it is given, else the subject in place of the word in braces."""
    if target.strip():
        return target if has_vectors else target.replace("{}", words, 1)
    word = edited_word(described)
    if word is None:
        raise InputError("the description marks no word; put the one to edit in braces, such as a {cat} in the snow")
    return described.replace(f"{{{word}}}", f"{{}} {words}" if has_vectors else words)


def painted_mask(canvas: dict[str, Any] | None) -> Image.Image:
    """White where something is painted."""
    layers = [layer for layer in (canvas or {}).get("layers", []) if layer is not None]
    painted = np.zeros((1, 1), bool)
    for layer in layers:
        alpha = np.asarray(layer.convert("RGBA"))[..., 3] > 127
        painted = alpha if painted.shape != alpha.shape else painted | alpha
    if not painted.any():
        raise InputError("nothing is painted yet; show the source and paint where the edit goes")
    return Image.fromarray(painted.astype(np.uint8) * 255)
