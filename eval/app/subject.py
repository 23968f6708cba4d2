"""Above the tabs: whose images are drawn. A subject of the mini world, uploaded images, or a fine-tuned subject."""

import base64
import html
from typing import Any

import gradio as gr
from PIL import Image

from bdkit.models.preprocessing import centre_crop
from bdkit.utils.errors import InputError
from bdkit.utils.images import encode
from eval.app.sessions import Session, read_upload
from eval.app.studio import UPLOADED, Studio, Subject, sentence, told

FIRST = "dog"
THUMBNAIL = 144
CANVAS = 512  # pixels a side of an image to paint on


def image_box(studio: Studio, key: str, label: str, shown: Any, status: gr.HTML) -> gr.File:
    """A box for one image, which is kept as ``session.sources[key]`` and put into the component ``shown``."""
    box = gr.File(file_types=["image"], label=label, height=100, elem_id=f"{key}-upload", elem_classes="drop")

    def take(file: str | None, request: gr.Request) -> tuple[Any, Any, str]:
        """Keeps an uploaded image as this page's."""
        try:
            session = studio.session(request)
            if file is None:
                raise InputError("there is no image in this upload")
            image = read_upload(str(file), studio.uploads, studio.config.max_megabytes)
            session.sources[key] = centre_crop(image, studio.model.resolution)
            return None, session.save(enlarged(session.sources[key]), key), ""
        except Exception as error:
            return None, gr.skip(), told(error)

    box.upload(take, box, [box, shown, status], api_name=f"upload_{key}", concurrency_limit=2)
    return box


class SubjectPanel:
    """The panel, and what the tabs share: the subject's name and class word as inputs.

    name, class_noun: components
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        nouns = studio.class_nouns
        names = studio.names(Session(studio.uploads))
        first = FIRST if FIRST in names else names[0]
        with gr.Group(), gr.Row(equal_height=True):
            with gr.Column(scale=2, min_width=260):
                self.name = gr.Dropdown(names, value=first, label="Subject", elem_id="subject", filterable=True)
                self.class_noun = gr.Dropdown(
                    nouns, value=nouns[0] if nouns else None, label="Class word of your images", visible=False,
                    allow_custom_value=True, elem_id="class-noun",
                )  # fmt: skip
            with gr.Column(scale=3, min_width=260):
                self.shown = gr.HTML(elem_id="shown", padding=True)
            with gr.Column(scale=2, min_width=220):
                self.upload = gr.File(
                    file_count="multiple", file_types=["image"], label="Your own images, 1 to 6", height=110,
                    elem_id="upload", elem_classes="drop",
                )  # fmt: skip
        self.status = gr.HTML(elem_id="subject-status", elem_classes="status")
        taken = self.upload.upload(
            self._take,
            [self.upload, self.class_noun],
            [self.upload, self.name, self.status],
            api_name="upload",
            concurrency_limit=2,
        )
        shown = {
            "fn": self._show,
            "inputs": [self.name, self.class_noun],
            "outputs": [self.shown, self.class_noun],
            "api_name": False,
            "queue": False,
        }
        taken.then(**shown)
        self.name.change(**shown)

    def loaded(self, page: gr.Blocks) -> None:
        """What a fresh page shows."""
        page.load(
            self._loaded, [self.name, self.class_noun], [self.name, self.shown, self.class_noun], api_name=False,
            queue=False,
        )  # fmt: skip

    def stops(self, button: gr.Button, event: Any, status: gr.HTML) -> None:
        """Makes a button end an event, whether it runs or waits."""

        def stop(request: gr.Request) -> str:
            """Ends what this page runs."""
            self.studio.session(request).stop.set()
            return sentence("Stopped.", "plain")

        button.click(stop, None, status, cancels=[event], queue=False, api_name=False)

    def _loaded(self, name: str, noun: str, request: gr.Request) -> tuple[Any, Any, Any]:
        names = self.studio.names(self.studio.session(request))
        return gr.update(choices=names), *self._show(name, noun, request)

    def _show(self, name: str, noun: str, request: gr.Request) -> tuple[Any, Any]:
        """The subject's images, and whether its class word can be chosen."""
        try:
            subject = self.studio.subject(self.studio.session(request), name, noun)
        except Exception as error:
            return told(error), gr.skip()
        return thumbnails(subject), gr.update(visible=name == UPLOADED)

    def _take(self, files: list[str] | None, noun: str, request: gr.Request) -> tuple[Any, Any, str]:
        """Keeps uploaded images as this page's subject."""
        most = min(6, self.studio.config.max_images)
        try:
            session = self.studio.session(request)
            paths = files or []
            if len(paths) > most:
                raise InputError(f"{len(paths)} images; give at most {most} of one subject")
            limit = self.studio.config.max_megabytes
            images = [read_upload(str(path), self.studio.uploads, limit) for path in paths]
            if not images:
                raise InputError("there are no images in this upload; drop one to six of one subject")
            session.images = images
        except Exception as error:
            return None, gr.skip(), told(error)
        said = f"{len(images)} image{'s' * (len(images) != 1)} of yours; choose the class word of what they show."
        return None, gr.update(choices=self.studio.names(session), value=UPLOADED), sentence(said)


def thumbnails(subject: Subject) -> str:
    """The subject's images in a row, as HTML."""
    if subject.folder is not None:
        return '<div class="thumbs"><span>Learned by fine-tuning; its images are not needed any more.</span></div>'
    tags = "".join(f'<img src="{data_url(image)}" alt="image {n} of {html.escape(subject.name)}">'
                   for n, image in enumerate(subject.images, 1))  # fmt: skip
    return f'<div class="thumbs">{tags}</div>'


def enlarged(image: Image.Image) -> Image.Image:
    """A small image at a size that can be painted on."""
    factor = max(1, CANVAS // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)


def data_url(image: Image.Image, side: int = THUMBNAIL) -> str:
    """A small image as part of a page."""
    small = image.copy()
    small.thumbnail((side, side))
    return "data:image/png;base64," + base64.b64encode(encode(small, "PNG")).decode()
