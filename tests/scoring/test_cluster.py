"""`score.py --engine ray` on a local cluster of two nodes, one of which is lost during the run."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, TEXTS
from tsn.scoring import cluster as ray_cluster
from tsn.scoring.workers import WorkerFailed

pytest.importorskip("ray", reason="pip install -r requirements/cluster.txt")
pytestmark = pytest.mark.slow
BAD = [None, 3, "", "  ", "\ud800", "nul \0 byte", ["x"], {"a": 1}]
PARTS = 20
os.environ.update(RAY_worker_niceness="0")  # workers of a low priority hardly move beside other tests


def command(*arguments):
    return [sys.executable, str(ROOT / "score.py"), *map(str, arguments)]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Rows whose columns come and go and change type, some of which cannot be scored."""
    texts = [(BAD if i % 50 == 0 else TEXTS)[i % (8 if i % 50 == 0 else 5)] for i in range(PARTS * 500)]
    rows = [{"n": i, "text": text, "any": BAD[i % 8]} if i % 3 else {"text": text} for i, text in enumerate(texts)]
    path = tmp_path_factory.mktemp("table") / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def whole(table, onnx_folder, tmp_path_factory):
    """The output of the local engine, and what it prints."""
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    run = command(table, "--output", output, "--model", onnx_folder, "--threads", 1)
    done = subprocess.run(run, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return output.read_bytes(), done.stdout


@pytest.fixture
def cluster():
    """Two nodes with a core each, started the way Ray tests itself; the driver runs on the first."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


def busy_actors(raylet):
    """Processes of a raylet's actors that are running a task, by their title, which names the method."""
    actors = []
    for process in psutil.Process(raylet).children(recursive=True):
        try:
            if process.cmdline()[0].startswith("ray::MapWorker") and ".submit" in process.cmdline()[0]:
                actors.append(process)
        except (psutil.Error, IndexError):
            continue
    return actors


@pytest.mark.parametrize("lost", ["actor", "machine"])
def test_what_a_killed_worker_was_doing_is_done_by_another(lost, cluster, table, whole, onnx_folder, tmp_path):
    from ray._private.ray_constants import PROCESS_TYPE_RAYLET

    output, errors = tmp_path / "out.jsonl", tmp_path / "stderr"
    run = command(table, "--output", output, "--model", onnx_folder, "--threads", 2, "--engine", "ray")
    raylet = cluster.other.all_processes[PROCESS_TYPE_RAYLET][0].process.pid
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            run, env=os.environ | {"RAY_ADDRESS": cluster.address}, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    while True:  # until an actor is in the middle of a task, and stays there
        assert process.poll() is None, errors.read_text()
        for actor in busy_actors(raylet):
            actor.suspend()
            if actor in busy_actors(raylet) and list(tmp_path.glob("out.jsonl.parts/0*.json")):
                break
            actor.resume()
        else:
            time.sleep(0.1)
            continue
        break
    assert len(list(tmp_path.glob("out.jsonl.parts/0*.json"))) < PARTS and process.poll() is None
    if lost == "actor":
        actor.kill()
    else:
        cluster.remove_node(cluster.other, allow_graceful=False)
    stdout, _ = process.communicate(timeout=900)
    assert process.returncode == 0, errors.read_text()
    assert (output.read_bytes(), stdout) == whole, errors.read_text()
    psutil.wait_procs([actor], timeout=60)
    assert not actor.is_running()


def test_tasks_of_several_windows_and_one_that_always_kills_its_worker(onnx_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(ray_cluster, "WINDOW_BYTES", 1)
    attempts = tmp_path / "attempts"

    def load(model, device):
        return sorted(path.name for path in Path(model).glob("onnx/*.onnx")), model, os.getcwd()

    def function(loaded, word):
        if word == "deadly":
            with open(attempts, "a") as file:
                file.write("once\n")
            os._exit(9)
        return *loaded, word

    tasks = [("a", ("harmless",)), ("b", ("deadly",))]
    answers = ray_cluster.run_tasks(tasks, load, function, (str(onnx_folder), "cpu"), 1)
    key, (names, model, folder, word) = next(answers)
    assert (key, names, word) == ("a", ["model.onnx", "model_quantized.onnx"], "harmless")
    assert model != str(onnx_folder) and folder != os.getcwd()  # the copy that was sent
    with pytest.raises(WorkerFailed, match="killed its worker 3 times"):
        next(answers)
    assert attempts.read_text() == "once\n" * 3


def test_a_model_that_kills_its_worker_when_it_is_loaded(onnx_folder, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")

    def load(model, device):
        os._exit(9)

    with pytest.raises(WorkerFailed, match="loading the model killed its worker 3 times"):
        next(ray_cluster.run_tasks([("a", ("harmless",))], load, print, (str(onnx_folder), "cpu"), 1))


def test_a_driver_that_is_killed_leaves_no_process_and_the_local_engine_goes_on(table, whole, onnx_folder, tmp_path):
    output = tmp_path / "out.jsonl"
    run = command(table, "--output", output, "--model", onnx_folder, "--threads", 1)
    process = subprocess.Popen(
        [*run, "--engine", "ray"],
        env=os.environ | {"RAY_ADDRESS": "local"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(tmp_path.glob("out.jsonl.parts/0*.json")):
        assert process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert not output.exists() and any("raylet" in child.name() for child in children)
    process.wait()
    assert not psutil.wait_procs(children, timeout=300)[1]
    done = subprocess.run(run, capture_output=True, encoding="utf-8")
    assert (output.read_bytes(), done.stdout) == whole, done.stderr


def test_what_fails_is_named(table, onnx_folder, tmp_path):
    run = command(table, "--output", tmp_path / "out.jsonl", "--model", onnx_folder, "--engine", "ray")
    env = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run([*run, "--onnx", "x.onnx"], capture_output=True, encoding="utf-8", env=env)
    assert done.returncode == 1 and "x.onnx" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""
    (tmp_path / "ray.py").write_text("raise ImportError('none here')", "utf-8")
    env["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run(run, capture_output=True, encoding="utf-8", env=env)
    assert done.returncode == 1 and "pip install -r requirements/cluster.txt" in done.stderr, done.stderr
