"""`bdkit push`: what is sent, to a stand-in of the hub's HTTP API, and what is refused in one line."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from eval_helpers import add_images, make_folder, make_scores
from huggingface_hub import ModelCard
from PIL import Image

from bdkit.cli import main
from eval.report.tables import make_tables

TOKEN = "hf_of_a_test"


class Hub(ThreadingHTTPServer):
    """What the hub answers when a model is made and a commit is sent: small files in the commit, weights before it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        super().__init__(("127.0.0.1", 0), Answers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self) -> None:
        self.answer({"error": "unknown"}, 404)

    def do_PUT(self) -> None:
        content = self.content()
        self.server.stored[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_POST(self) -> None:
        content, path = self.content(), self.path
        self.server.asked.append(path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(content)
            self.answer({"url": f"{self.server.url}/{asked['organization']}/{asked['name']}"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = json.loads(content)["files"]
            modes = ["lfs" if file["path"].endswith(".safetensors") else "regular" for file in files]
            answered = [
                {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}
                for file, mode in zip(files, modes, strict=True)
            ]
            self.answer({"files": answered})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.url}/store/{each['oid']}"}}}
                for each in json.loads(content)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif path.endswith("/commit/main"):
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.stored[value["oid"]]
            sha = "1" * 40
            self.answer({"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/user/dog/commit/{sha}"})
        else:
            self.answer({"error": f"unknown {path}"}, 404)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What a fine-tuned folder has, with weights of a few bytes."""
    folder = tmp_path / "my-dog"
    (folder / "unet").mkdir(parents=True)
    (folder / ".fit").mkdir()
    (folder / ".fit" / "work.json").write_text("{}")
    (folder / "unet" / "model.safetensors").write_bytes(os.urandom(1000))
    fitted = {"method": "blip-diffusion", "class_noun": "dog", "steps": 80, "learning_rate": 0.0003, "checkpoint": "ab"}
    (folder / "bdkit.json").write_text(json.dumps({"finetuned": fitted}))
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    add_images(folder, ("base", "mine"))
    return make_folder(folder, make_scores(("base", "mine")))


def arguments(model: Path, results: Path) -> list[str]:
    return [
        *("push", str(model), "user/dog", "--license", "apache-2.0", "--base-model", "someone/blip"),
        *("--results", str(results), "--row", "mine", "--dataset", "someone/mini-world"),
    ]


def run(arguments: list[str], tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    left_out = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    where = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-m", "bdkit.cli", *arguments],
        env={**kept, **where, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_the_hub_gets_what_a_dry_run_writes(hub: Hub, model: Path, results: Path, tmp_path: Path) -> None:
    sent = run(arguments(model, results), tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)
    assert sent.returncode == 0, sent.stderr
    assert sent.stdout == f"{hub.url}/user/dog has 5 files.\n"
    assert hub.asked[0] == "/api/repos/create"
    dry = tmp_path / "dry"
    assert main([*arguments(model, results), "--dry-run", str(dry)]) == 0
    written = {path.relative_to(dry).as_posix(): path.read_bytes() for path in dry.rglob("*") if path.is_file()}
    assert written == hub.files
    assert set(written) == {
        "README.md", "bdkit.json", "samples.jpg", "unet/model.safetensors", ".eval_results/mini-quick.yaml",
    }  # fmt: skip
    assert written["unet/model.safetensors"] == (model / "unet" / "model.safetensors").read_bytes()


def test_the_card_has_table_settings_and_metadata(model: Path, results: Path, tmp_path: Path) -> None:
    (model / "README.md").write_text("---\nlicense: mit\n---\n# Trained\n\n35 minutes.\n")
    dry = tmp_path / "dry"
    assert main([*arguments(model, results), "--dry-run", str(dry)]) == 0
    card = ModelCard.load(dry / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["base_model"], data["library_name"]) == ("apache-2.0", "someone/blip", "bdkit")
    for words in (
        "| `learning_rate`",
        "0.0003",
        "samples.jpg",
        "protocol mini",
        'is the row "mine"',
        "## Trained",
        "35 minutes",
    ):
        assert words.replace("`learning_rate`", "learning_rate") in card.text, words
    table = make_tables(results)
    entries = yaml.safe_load((dry / ".eval_results" / "mini-quick.yaml").read_text())
    assert {entry["dataset"]["task_id"]: entry["value"] for entry in entries} == {
        metric: pytest.approx(table.estimates["mine", metric].mean, abs=1e-6) for metric in ("dino", "clip_i", "clip_t")
    }
    assert {entry["dataset"]["id"] for entry in entries} == {"someone/mini-world"}
    assert all("protocol mini" in entry["notes"] for entry in entries)
    assert Image.open(dry / "samples.jpg").width > 300


def test_samples_of_ones_own_and_no_results(
    model: Path, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = next((results / "images").glob("seed0/mine/*"))
    named = ["push", str(model), "user/dog", "--license", "mit", "--samples", str(images), "--dry-run"]
    assert main([*named, str(tmp_path / "dry")]) == 0
    assert "has the 4 files that would be sent to user/dog" in capsys.readouterr().out
    assert Image.open(tmp_path / "dry" / "samples.jpg").width > 192
    assert main([*named, str(tmp_path / "dry")]) == 2
    assert "dry already holds something; give --dry-run another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"user/dog": "dog"}, "the name 'dog' is no hub id; write it like user/name"),
        ({"user/dog": "user/-dog"}, "the name 'user/-dog' is no hub id"),
        ({"someone/blip": "../../x"}, "--base-model '../../x' is no hub id"),
        ({"mine": "theirs"}, "no row 'theirs'; name the row that is this model: base, mine"),
        ({"--license": "--licence"}, "unrecognized arguments: --licence"),
    ],
)
def test_what_is_wrong_is_one_line(
    changed: dict[str, str], words: str, model: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([changed.get(one, one) for one in arguments(model, results)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_what_is_no_model_is_refused(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, words in (
        (results, "is a results folder"),
        (tmp_path, "holds no model"),
        (tmp_path / "x", "not a folder"),
    ):
        assert main(["push", str(folder), "user/dog", "--license", "mit"]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_no_token_a_refused_one_and_no_network(hub: Hub, model: Path, tmp_path: Path) -> None:
    named = ["push", str(model), "user/dog", "--license", "mit"]
    closed = "http://127.0.0.1:9"
    for environment, words in (
        ({"HF_ENDPOINT": hub.url}, "there is no token for the hub; run `hf auth login`, or set HF_TOKEN"),
        ({"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_other"}, "the hub refuses to write user/dog (401)"),
        ({"HF_ENDPOINT": closed, "HF_TOKEN": TOKEN}, "the hub cannot be reached (ConnectError)"),
        ({"HF_HUB_OFFLINE": "1", "HF_TOKEN": TOKEN}, "HF_HUB_OFFLINE is set"),
    ):
        done = run(named, tmp_path, **environment)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert hub.files == {}
