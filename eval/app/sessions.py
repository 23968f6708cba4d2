"""What the server keeps of each open page (a folder, uploads, taught subjects), until the page is closed."""

import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from bdkit.utils.errors import InputError
from bdkit.utils.images import decode_image, encode
from bdkit.utils.io import write_bytes

MAX_SESSIONS = 200
MAX_TAUGHT = 4
IDLE_SECONDS = 2 * 3600.0  # of a page that never said that it was closed, such as a program's
LARGEST_SIDE = 2048  # what is kept of an upload; no image encoder sees more
NAME_SHOWN = 60


@dataclass(eq=False)
class Session:
    """One open page.

    folder: for what it is shown; no part of its name comes from the client
    images: uploaded images of a subject
    sources: the image that is edited, and the one whose shape is kept
    taught: name -> the folder of a subject that was taught here
    stop: set to end what is running; keep: set to end a lesson and keep what was learned
    """

    folder: Path
    images: list[Image.Image] = field(default_factory=list)
    sources: dict[str, Image.Image] = field(default_factory=dict)
    taught: dict[str, Path] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    keep: threading.Event = field(default_factory=threading.Event)
    seen: float = field(default_factory=time.monotonic)
    left: float | None = None
    running: int = 0

    def save(self, image: Image.Image, name: str) -> str:
        """Writes an image of the page under a name of its own; its path."""
        path = self.folder / f"{name}-{secrets.token_hex(4)}.png"
        write_bytes(encode(image, "PNG", compress_level=1), path)
        return str(path)


class Sessions:
    """All pages, by what their browsers call themselves.

    Args:
        root: folder for theirs.
        keep_seconds: how long a page that was closed is kept, because phones close a page's line when they sleep.
    """

    def __init__(self, root: Path, keep_seconds: float) -> None:
        self.root, self.keep_seconds = root, keep_seconds
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)

    def of(self, key: str | None) -> Session:
        """The page's session, a new one for a new page."""
        name = key or ""
        with self._lock:
            session = self._sessions.get(name)
            if session is None:
                self._remove_old(MAX_SESSIONS - 1)
                if len(self._sessions) >= MAX_SESSIONS:
                    raise InputError("too many pages are open; try again in a few minutes")
                folder = self.root / secrets.token_hex(16)
                folder.mkdir()
                session = self._sessions[name] = Session(folder)
            session.seen, session.left = time.monotonic(), None
            return session

    def leave(self, key: str | None) -> None:
        """The page was closed: what it runs ends now, and what is kept of it goes when it does not come back."""
        with self._lock:
            session = self._sessions.get(key or "")
            if session is not None:
                session.left = time.monotonic()
                session.stop.set()

    def remove_old(self) -> None:
        """Removes the sessions of pages that are closed or idle for long."""
        with self._lock:
            self._remove_old(MAX_SESSIONS)

    def _remove_old(self, most: int) -> None:
        now = time.monotonic()
        idle = [
            name
            for name, session in self._sessions.items()
            if not session.running
            and (now - session.seen > IDLE_SECONDS or (session.left and now - session.left >= self.keep_seconds))
        ]
        closed = [name for name, one in self._sessions.items() if one.left and not one.running and name not in idle]
        closed.sort(key=lambda name: self._sessions[name].left or now)
        for name in idle + closed[: max(0, len(self._sessions) - len(idle) - most)]:
            shutil.rmtree(self._sessions.pop(name).folder, ignore_errors=True)


def read_upload(path: str, uploads: Path, max_megabytes: int) -> Image.Image:
    """An uploaded image, at most `LARGEST_SIDE` pixels a side; its file is removed.

    Args:
        path: where Gradio has put the upload, below ``uploads``; any other path is refused unopened.
    """
    file = Path(path).resolve()
    if not file.is_relative_to(uploads.resolve()) or not file.is_file():
        raise InputError("this is no uploaded file; drop an image into the page")
    name = file.name if len(file.name) <= NAME_SHOWN else f"{file.name[:NAME_SHOWN]}..."
    try:
        if file.stat().st_size > max_megabytes * 2**20:
            raise InputError(f"{name} has more than {max_megabytes} megabytes; make it smaller first")
        image, _ = decode_image(file.read_bytes(), name)
    finally:
        shutil.rmtree(file.parent, ignore_errors=True)
    if max(image.size) > LARGEST_SIDE:
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BICUBIC)
    return image
