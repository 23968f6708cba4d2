"""What several tabs have: the buttons with the line below them, and a grid of images."""

import gradio as gr


def work_buttons(name: str, label: str, stop: str = "Stop") -> tuple[gr.Button, gr.Button, gr.HTML]:
    """A button that starts the work of a tab, one that ends it, and the line for what is said of it."""
    with gr.Row():
        go = gr.Button(label, variant="primary", elem_id=f"{name}-go", min_width=120)
        end = gr.Button(stop, variant="secondary", elem_id=f"{name}-stop", min_width=80)
    return go, end, gr.HTML(elem_id=f"{name}-status", elem_classes="status")


def image_grid(elem_id: str, label: str, columns: int, *, small: bool = False) -> gr.Gallery:
    """Images under their captions, as PNG; on a phone two across, or three small ones."""
    return gr.Gallery(
        label=label, columns=columns, object_fit="contain", format="png", height="auto", show_label=False,
        elem_id=elem_id, elem_classes="grid-images small" if small else "grid-images",
    )  # fmt: skip
