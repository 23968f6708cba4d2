"""The tab *Control and style*: the shape of one object, the look of the chosen subject (Sec. 4.2)."""

from functools import lru_cache
from typing import Any

import gradio as gr
from PIL import Image

from bdkit.editing.structure_control import CONTROLNETS, SHIPPED, StructureControl, default_controlnet, load_controlnet
from bdkit.editing.structures import structure_map
from bdkit.methods.base import check_class_noun
from bdkit.models.preprocessing import centre_crop
from bdkit.models.prompts import subject_template
from bdkit.utils.edges import CANNY_HIGH, CANNY_LOW
from bdkit.utils.errors import InputError
from eval.app.parts import image_grid, work_buttons
from eval.app.sessions import Session
from eval.app.studio import Studio, Turn, checked_text, seed_list
from eval.app.subject import SubjectPanel, image_box

UPLOADED, OWN_WORD = "my image", "the subject's own"
FIRST_SHAPE = "teapot"
CANNY = "canny"


def build(studio: Studio, panel: SubjectPanel) -> None:
    """Lays the tab out and wires it."""
    shapes = [UPLOADED, *(subject.name for subject in studio.suite.subjects)]
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Markdown(
                "The edges of one object, the look of the subject above: a ControlNet keeps the shape while the "
                "subject's vectors decide the rest.",
                elem_classes="hint",
            )
            with gr.Row():
                shape = gr.Dropdown(shapes, value=FIRST_SHAPE, label="Shape of", min_width=130, elem_id="control-shape")
                word = gr.Dropdown(
                    [OWN_WORD, *studio.class_nouns], value="teapot" if "teapot" in studio.class_nouns else OWN_WORD,
                    label="Class word of the result", allow_custom_value=True, min_width=130,
                )  # fmt: skip
            with gr.Column(visible=False) as holder:
                uploaded = gr.Image(
                    show_label=False, interactive=False, height=110, elem_classes="tiny", format="png", buttons=[]
                )
            prompt = gr.Textbox("a {}", label="Prompt", info="{} stands where the subject goes", max_length=300)
            with gr.Row():
                seeds = gr.Textbox("0-2", label="Seeds", max_length=60, min_width=90, elem_id="control-seeds")
                strength = gr.Slider(0, 2, 1.0, step=0.05, label="Strength", min_width=150)
            with gr.Accordion("More", open=False):
                with gr.Row():
                    low = gr.Slider(0, 255, CANNY_LOW, step=1, label="Edges: lower threshold", min_width=150)
                    high = gr.Slider(0, 255, CANNY_HIGH, step=1, label="Edges: upper threshold", min_width=150)
                with gr.Row():
                    start = gr.Slider(0, 0.95, 0, step=0.05, label="From this share of the steps", min_width=150)
                    end = gr.Slider(0.05, 1, 1, step=0.05, label="to this", min_width=150)
            go, stop, status = work_buttons("control", "Draw")
        with gr.Column(scale=3, min_width=300):
            images = image_grid("control-images", "Images", 3)
        with holder:
            image_box(studio, "shape", "The shape's image", uploaded, status)
        shape.change(lambda name: gr.update(visible=name == UPLOADED), shape, holder, api_name=False, queue=False)

    @lru_cache(maxsize=1)
    def controlnet() -> tuple[Any, bool]:
        """The ControlNet for edges that belongs to the model, and whether guidance strengthens the edges, too."""
        path = studio.config.controlnet or default_controlnet(CANNY, studio.config.model, studio.model.unet)
        if path in CONTROLNETS.values() and studio.config.controlnet is None:
            raise InputError("there is no ControlNet for this model here; start the app with --controlnet FOLDER")
        return load_controlnet(path), path in SHIPPED

    def shape_image(session: Session, name: str) -> Image.Image:
        if name != UPLOADED:
            return studio.subject(session, name, None).images[0]
        if "shape" not in session.sources:
            raise InputError("there is no image of yours yet whose shape is kept; drop one into the box")
        return session.sources["shape"]

    def control(
        name: str,
        noun: str,
        shape: str,
        word: str,
        prompt: str,
        seeds: str,
        strength: float,
        low: float,
        high: float,
        start: float,
        end: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio is asked for it)
    ) -> tuple[Any, str]:
        """Images of the subject in another's shape; the shape, its edges and the images, and a sentence."""

        def work(turn: Turn) -> list[tuple[str, str]]:
            numbers = seed_list(seeds, studio.config.max_images)
            template = subject_template(checked_text(prompt, "the prompt"))
            subject = studio.subject(turn.session, name, noun)
            model, words, vectors = studio.drawable(subject)
            if word != OWN_WORD and vectors is not None:
                check_class_noun(checked_text(word, "the class word"), model.record.get("class_nouns"))
                words = word
            source = centre_crop(shape_image(turn.session, shape), model.resolution)
            side = model.resolution
            edges = structure_map(CANNY, source, side, side, low=float(low), high=float(high))
            net, guided = controlnet()
            kept = StructureControl(
                net, edges, strength=float(strength), start=float(start), end=float(end), guided=guided
            )
            shown: dict[str, Any] = {} if vectors is None else {"subject_embeddings": vectors}
            with turn.watching(model.unet, model.defaults.num_inference_steps, f"drawing {len(numbers)} images"):
                drawn = model(template, target_subject=words, seeds=numbers, control=kept, **shown)
            turn.say(f"{len(drawn)} image{'s' * (len(drawn) != 1)} in {turn.seconds:.1f} s.")
            named = [(source, "shape"), (edges, "edges")]
            named += [(image, f"seed {seed}") for image, seed in zip(drawn, numbers, strict=True)]
            return [(turn.session.save(image, "control"), label) for image, label in named]

        drawn, status = studio.run(work, request, progress)
        return gr.skip() if drawn is None else drawn, status

    inputs = [panel.name, panel.class_noun, shape, word, prompt, seeds, strength, low, high, start, end]
    event = go.click(
        control, inputs, [images, status], concurrency_id="easel", api_name="control", show_progress_on=[images]
    )
    panel.stops(stop, event, status)
