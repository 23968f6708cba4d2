"""The page with its tabs, and the server that shows it."""

import os
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.rgb import MAX_PIXELS
from eval.app import compare, control, draw, edit, look, teach
from eval.app.config import AppConfig
from eval.app.studio import Studio
from eval.app.style import CSS, HEAD, theme
from eval.app.subject import SubjectPanel

TABS = {
    "Draw": draw.build,
    "Teach": teach.build,
    "Edit": edit.build,
    "Control and style": control.build,
    "Look inside": look.build,
    "Compare": compare.build,
}
WAITING = 32  # events in the queue
SECONDS = 15.0  # between two looks for sessions that are over
LOOK_SECONDS = 0.01  # between two looks for new work
FORGOTTEN = 900  # seconds that files stay which Gradio has put aside
TITLE = """<div class="head"><h1>bdkit</h1><p>Your subject in new scenes: BLIP-Diffusion with the model
<b>{}</b></p></div>"""


def build_page(studio: Studio) -> gr.Blocks:
    """All tabs under one choice of the subject."""
    with gr.Blocks(title="bdkit", analytics_enabled=False, delete_cache=(60, FORGOTTEN)) as page:
        gr.HTML(TITLE.format(Path(studio.config.model).name))
        panel = SubjectPanel(studio)
        with gr.Tabs():
            for name, build in TABS.items():
                with gr.Tab(name):
                    build(studio, panel)
        panel.loaded(page)

        def leave(request: gr.Request) -> None:
            studio.sessions.leave(request.session_hash)

        page.unload(leave)
    return page


def serve(config: AppConfig) -> None:
    """Runs the server until it is stopped; nothing it wrote is left then."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background process ignores the second by default
        signal.signal(number, _stop)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses from twice this on, wherever Gradio opens an upload
    with tempfile.TemporaryDirectory(prefix="bdkit-app-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        os.environ["GRADIO_TEMP_DIR"] = str(root / "uploads")
        studio = Studio(config, root)
        gr.set_static_paths([root / "sessions"])
        page = build_page(studio)
        page.queue(max_size=WAITING, default_concurrency_limit=4)
        # Gradio looks for work 1,000 times a second, which takes the interpreter from the model that draws
        page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = LOOK_SECONDS
        try:
            page.launch(**launch_settings(config))
        except OSError as error:
            raise InputError(f"{config.host} port {config.port or 7860}: {error}; choose another --port") from None
        print(f"bdkit app: {page.share_url or page.local_url} (Ctrl-C stops it)", flush=True)
        over = threading.Event()
        try:
            while not over.wait(SECONDS if config.keep_minutes else 1.0):
                studio.sessions.remove_old()
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def launch_settings(config: AppConfig) -> dict[str, Any]:
    """What Gradio is told."""
    return {
        "server_name": config.host,
        "server_port": config.port,
        "share": config.share,
        "inbrowser": config.open,
        "max_file_size": config.max_megabytes * 2**20,
        "prevent_thread_lock": True,
        "quiet": True,
        "ssr_mode": False,
        "show_error": True,
        "footer_links": [],
        "theme": theme(),
        "css_paths": CSS,
        "head": HEAD,
        "enable_monitoring": False,
        "run_history": False,
    }
