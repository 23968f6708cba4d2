"""How the page looks: one theme with the system's own fonts, and what a phone needs. Nothing comes from the network."""

from pathlib import Path

import gradio as gr

FONTS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = Path(__file__).with_name("style.css")
# Gradio lets a style sheet reach only what is inside the frame whose margins these are
HEAD = "<style>@media (max-width: 640px) { .fillable { padding: 8px 12px !important; } }</style>"


def theme() -> gr.themes.Base:
    """The theme of every tab."""
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="lg", font=FONTS, font_mono=MONO
    ).set(
        body_background_fill="*neutral_50",
        block_border_width="1px",
        block_shadow="none",
        button_large_padding="10px 18px",
    )
