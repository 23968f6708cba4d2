"""A bench and a preparation on a Ray cluster of three nodes on this machine, one of which is killed."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from eval_helpers import METHODS, texture
from generate_helpers import Held, config, files, refuse, wait_for

from bdkit.training.preparation.prepare import PrepareConfig, prepare_images
from bdkit.training.preparation.sending import SendingFiles
from bdkit.utils.errors import InputError
from bdkit.utils.ray_executor import ray_executor
from eval.generate.executors import one_thread
from eval.generate.run import generate
from eval.results_dir import read_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three nodes of one core, on the loopback."""
    before = dict(os.environ)
    quick = tmp_path_factory.mktemp("quick")
    # Imported by every process of Ray through jsonschema, where it is installed (by Jupyter): 2 CPU seconds each
    (quick / "rfc3987_syntax.py").write_text("raise ImportError('slow, and of no use here')\n")
    helpers = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    paths = [str(quick), *helpers, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    try:
        for _ in range(3):
            add_node(nodes)
        yield nodes
    finally:
        nodes.shutdown()
        os.environ.clear()
        os.environ.update(before)


def add_node(nodes: Any) -> None:
    """Ray gives up on a node whose processes have not started within 15 seconds, as happens beside other work."""
    for attempt in range(6):
        try:
            nodes.add_node(num_cpus=1, include_dashboard=False, include_log_monitor=False)
            return
        except Exception as error:
            if attempt == 5 or "timed out" not in str(error):
                raise


def hashes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}


def test_shards_are_those_of_local_processes_and_errors_come_back(cluster: Any, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    lines = ["path,caption,subject"]
    for number in range(20):
        texture(48, 40, number).save(images / f"{number}.png")
        lines.append(f"{number}.png,a dog,dog")
    (images / "3.png").write_bytes(b"no image")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    make = partial(prepare_images, str(images), str(tmp_path / "list.csv"), progress=False)
    config = PrepareConfig(masks="none", size=32)
    with ThreadPoolExecutor(1) as here:
        local = make(str(tmp_path / "local"), config, executor=here)
    with ray_executor(cluster.address, 2) as executor:
        assert make(str(tmp_path / "ray"), config, executor=SendingFiles(executor), workers=2) == local
        assert [future.result() for future in [executor.submit(refuse, n) for n in (0, 1, 3)]] == [0, 1, 9]
        with pytest.raises(InputError, match=r"^two is too many$"):
            executor.submit(refuse, 2).result()
    assert local["rejected"] == {"damaged image": 1}
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "local")


def test_a_killed_node_changes_no_byte_and_its_tasks_are_done_again(cluster: Any, tmp_path: Path, whole: Path) -> None:
    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()
    victim = next(iter(cluster.worker_nodes))
    methods = {**METHODS, "tiny": partial(Held, folder=marks)}
    ours = config(out, executor="ray", address=cluster.address)

    def make() -> bool:
        with one_thread():
            return generate(ours, methods=methods, show_progress=False)

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(make)
        try:
            wait_for(lambda: running.done() or len(list(marks.iterdir())) == 3)
            assert {mark.name.partition("-")[2] for mark in marks.iterdir()} == {n["NodeID"] for n in nodes(alive=True)}
            cluster.remove_node(victim, allow_graceful=False)
            wait_for(lambda: victim.node_id not in {node["NodeID"] for node in nodes(alive=True)})
        finally:
            (marks / "go").touch()
        assert running.result()
    seeds = [mark.name.partition("-") for mark in marks.iterdir() if mark.name != "go"]
    (lost,) = (seed for seed, _, node in seeds if node == victim.node_id)
    assert sorted(seed for seed, _, _ in seeds) == sorted([*{seed for seed, _, _ in seeds}, lost])
    assert files(out) == files(whole)
    assert sorted(path.name for path in out.iterdir()) == ["images", "references", "run.json", "suite.json"]
    images = [path for path in out.rglob("*") if path.suffix == ".png"]
    assert sorted(images) == sorted(out / name for name in files(out))
    fits = {name: len(seconds) for name, seconds in read_run(out)["fit_seconds"].items()}
    assert fits == {"tiny-2": 4, "tiny": 4, "plain": 4}


def nodes(alive: bool) -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"] is alive]
