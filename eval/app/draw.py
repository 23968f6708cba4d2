"""The tab *Draw*: images of the chosen subject in new contexts, zero-shot or fine-tuned."""

from typing import Any

import gradio as gr

from bdkit.models.prompts import subject_template
from bdkit.sampling import SAMPLERS, make_scheduler, with_timesteps
from bdkit.utils.errors import InputError
from eval.app.parts import image_grid, work_buttons
from eval.app.studio import Studio, Turn, checked_text, seed_list
from eval.app.subject import SubjectPanel

EXAMPLES = ["a {} in the snow", "a {} on the beach", "a {} wearing a red hat", "a purple {}", "a {} in the jungle"]
OWN_SAMPLER = "the model's own"
LONGEST_RUN = 100  # denoising steps


def build(studio: Studio, panel: SubjectPanel) -> None:
    """Lays the tab out and wires it."""
    defaults = studio.model.defaults
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(
                "a {} in the snow", label="Prompt", info="{} stands where the subject goes", lines=1, max_lines=3,
                elem_id="draw-prompt", max_length=300,
            )  # fmt: skip
            gr.Examples([[text] for text in EXAMPLES], [prompt], label="Try")
            with gr.Row():
                seeds = gr.Textbox(
                    "0-3",
                    label="Seeds",
                    info="one image each: 0-3,7",
                    min_width=110,
                    max_length=60,
                    elem_id="draw-seeds",
                )
                guidance = gr.Slider(0, 15, defaults.guidance_scale, step=0.5, label="Guidance", min_width=150)
            with gr.Accordion("More", open=False):
                steps = gr.Slider(
                    1, LONGEST_RUN, defaults.num_inference_steps, step=1, label="Denoising steps", elem_id="draw-steps"
                )
                sampler = gr.Dropdown([OWN_SAMPLER, *SAMPLERS], value=OWN_SAMPLER, label="Scheduler")
                negative = gr.Textbox(defaults.negative_prompt, label="Negative prompt", max_length=300)
            go, stop, status = work_buttons("draw", "Draw")
        with gr.Column(scale=3, min_width=300):
            images = image_grid("draw-images", "Images", 2)

    def draw(
        name: str,
        noun: str,
        prompt: str,
        seeds: str,
        steps: float,
        guidance: float,
        sampler: str,
        negative: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio is asked for it)
    ) -> tuple[Any, str]:
        """Images of a subject; the paths of their files, and a sentence."""

        def work(turn: Turn) -> list[tuple[str, str]]:
            numbers = seed_list(seeds, studio.config.max_images)
            template = subject_template(checked_text(prompt, "the prompt"))
            if not template.strip():
                raise InputError("the prompt is empty; say what to draw, such as 'a {} in the snow'")
            if not 1 <= steps <= LONGEST_RUN:
                raise InputError(f"{steps} denoising steps; use 1 to {LONGEST_RUN}")
            subject = studio.subject(turn.session, name, noun)
            model, words, vectors = studio.drawable(subject)
            scheduler = make_scheduler(None if sampler == OWN_SAMPLER else sampler, model.scheduler)
            count = len(with_timesteps(scheduler, int(steps)).timesteps)
            shown: dict[str, Any] = {}
            if vectors is not None and "{}" in template:
                shown["subject_embeddings"] = vectors
            with turn.watching(model.unet, count, f"drawing {len(numbers)} images"):
                drawn = model(
                    template,
                    target_subject=words if "{}" in template else None,
                    **shown,
                    negative_prompt=checked_text(negative, "the negative prompt"),
                    guidance_scale=float(guidance),
                    num_inference_steps=int(steps),
                    scheduler=scheduler,
                    seeds=numbers,
                )
            turn.say(f"{len(drawn)} image{'s' * (len(drawn) != 1)} in {turn.seconds:.1f} s.")
            return [
                (turn.session.save(image, "image"), f"seed {seed}") for image, seed in zip(drawn, numbers, strict=True)
            ]

        drawn, status = studio.run(work, request, progress)
        return gr.skip() if drawn is None else drawn, status

    inputs = [panel.name, panel.class_noun, prompt, seeds, steps, guidance, sampler, negative]
    event = gr.on(
        [go.click, prompt.submit],
        draw,
        inputs,
        [images, status],
        concurrency_id="easel",
        api_name="draw",
        show_progress_on=[images],
    )
    panel.stops(stop, event, status)
