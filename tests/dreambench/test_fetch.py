import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bdkit.utils.errors import InputError
from dreambench.fetch import FetchConfig, RemoteFile, fetch_dreambench, remote_files
from dreambench.photos import check_photos, photo_paths, photos_folder
from dreambench.registry import load_suite


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, counts requests, and sends every file of `cut` half the first time."""

    asked: list[str]
    cut: set[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path in self.cut:
            self.cut.remove(self.path)
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            return
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "published"
    (folder / "dog").mkdir(parents=True)
    for number in range(3):
        (folder / "dog" / f"0{number}.jpg").write_bytes(bytes([number]) * 1000)
    return folder


@pytest.fixture
def files(published: Path) -> list[RemoteFile]:
    return [
        RemoteFile(
            path.relative_to(published).as_posix(),
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(published.rglob("*.jpg"))
    ]


@pytest.fixture
def server(published: Path) -> Iterator[tuple[str, type[Handler]]]:
    handler = type("Counting", (Handler,), {"asked": [], "cut": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(published))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}", handler
        http.shutdown()
        thread.join()


def test_downloads_then_only_what_is_missing_or_damaged(tmp_path, server, files, published):
    url, handler = server
    config = FetchConfig(out=tmp_path / "photos", base_url=url + "/")
    assert fetch_dreambench(config, files) == tmp_path / "photos"
    for file in files:
        assert (tmp_path / "photos" / file.path).read_bytes() == (published / file.path).read_bytes()
    assert len(handler.asked) == 3
    fetch_dreambench(config, files)
    assert len(handler.asked) == 3
    (tmp_path / "photos/dog/00.jpg").write_bytes(b"x" * 1000)
    (tmp_path / "photos/dog/02.jpg").unlink()
    fetch_dreambench(config, files)
    assert handler.asked[3:] == ["/dog/00.jpg", "/dog/02.jpg"]
    assert sorted(path.name for path in (tmp_path / "photos/dog").iterdir()) == ["00.jpg", "01.jpg", "02.jpg"]
    handler.cut.add("/dog/01.jpg")  # a broken connection is tried again
    fetch_dreambench(FetchConfig(out=tmp_path / "again", base_url=url), files)
    assert handler.asked.count("/dog/01.jpg") == 3


@pytest.mark.parametrize("content", [b"?" * 1000, b"\1" * 5000], ids=["other", "longer"])
def test_other_content_is_refused_and_not_kept(tmp_path, server, files, published, content):
    (published / "dog/01.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"dog/01\.jpg is not the published file"):
        fetch_dreambench(FetchConfig(out=tmp_path / "photos", base_url=server[0]), files)
    assert [path.name for path in (tmp_path / "photos/dog").iterdir()] == ["00.jpg"]


def test_files_that_cannot_be_had_are_one_line(
    tmp_path: Path, server: tuple[str, type[Handler]], files: list[RemoteFile]
) -> None:
    with pytest.raises(InputError, match="answers 404"):
        fetch_dreambench(FetchConfig(out=tmp_path, base_url=server[0]), [RemoteFile("no.jpg", 1, "0")])
    config = FetchConfig(out=tmp_path, base_url="http://127.0.0.1:1", retries=0)
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch_dreambench(config, files)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "C:x", "a\\..\\x"])
def test_paths_out_of_the_folder_are_refused(tmp_path: Path, server: tuple[str, type[Handler]], path: str) -> None:
    with pytest.raises(InputError, match="leads out of the folder"):
        fetch_dreambench(FetchConfig(out=tmp_path / "in", base_url=server[0]), [RemoteFile(path, 1, "0")])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("url", ["file:///etc", "ftp://127.0.0.1", "nonsense"])
def test_only_http_addresses(tmp_path: Path, url: str, files: list[RemoteFile]) -> None:
    with pytest.raises(InputError, match="not an http or https address"):
        fetch_dreambench(FetchConfig(out=tmp_path, base_url=url), files)


def test_published_list_holds_every_photo() -> None:
    listed = [file.path for file in remote_files()]
    photos = [path for path in listed if path.endswith(".jpg")]
    assert len(photos) == 158
    assert set(listed) - set(photos) == {"prompts_and_classes.txt", "references_and_licenses.txt"}
    for subject in load_suite("dreambench").subjects:
        assert sum(path.startswith(f"{subject.name}/") for path in photos) == subject.n_references


def test_photos_folder_by_flag_variable_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BDKIT_DREAMBENCH_DIR", raising=False)
    with pytest.raises(InputError, match="bdkit fetch dreambench"):
        photos_folder()
    for name in ("cache/bdkit/dreambench", "variable", "flag"):
        (tmp_path / name).mkdir(parents=True)
    assert photos_folder() == tmp_path / "cache/bdkit/dreambench"
    monkeypatch.setenv("BDKIT_DREAMBENCH_DIR", str(tmp_path / "variable"))
    assert (photos_folder(), photos_folder(tmp_path / "flag")) == (tmp_path / "variable", tmp_path / "flag")
    with pytest.raises(InputError, match="is not a folder"):
        photos_folder(tmp_path / "no")


def test_incomplete_photos_are_refused(tmp_path: Path) -> None:
    suite = load_suite("dreambench").limited(subjects=1)
    (tmp_path / "backpack").mkdir()
    for number in range(5):
        (tmp_path / f"backpack/0{number}.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="holds 5 images, DreamBench has 6"):
        check_photos(tmp_path, suite)
    (tmp_path / "backpack/05.jpg").write_bytes(b"x")
    check_photos(tmp_path, suite)
    assert [path.name for path in photo_paths(tmp_path, suite.subjects[0])] == [f"0{number}.jpg" for number in range(6)]
