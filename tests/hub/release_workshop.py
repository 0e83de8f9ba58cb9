"""A pytest plugin with what the tests of a release share: a clone with a tiny model, a Hub on loopback, the command.

It imports what only the toolchain has when a test needs it, not before.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from subprocess import PIPE

import pytest
import transformers

from tests.conftest import ROOT
from tests.hub.hub_server import Hub, HubError

# Short patience. Where a test is not about them, fresh processes are not asked: `stub` is "local" for the one that
# loads the files here, "answers" for both that load them, "all" for the one that downloads them, too.
RUNNER = """
import sys, release
from huggingface_hub.utils import http_backoff
from tsn.hub import client, release as steps
client.TIME_LIMIT, client.RETRIES = 1.5, 2
http_backoff.__kwdefaults__ |= {"base_wait_time": 0.02, "max_retries": 1}  # what it tries again on its own
from pathlib import Path
stub, ask = sys.argv[1], steps.ask
def answer(*given):
    real = stub == "none" or stub == "local" and len(given) > 3
    return ask(*given) if real else {"torch": []}
steps.ask = answer
if stub == "all":
    steps.download = lambda *_: Path("out/hub").resolve()
release.main(sys.argv[2:])
"""
PLANTED = [
    *(".env", "token.txt", "training_args.bin", "optimizer.pt", "model.bin", "notes.md", "eval.log", "onnx/model.ort"),
    *("out/checkpoint-1/optimizer.pt", "out/checkpoint-1/model.safetensors", ".cache/x.json", "__pycache__/a.pyc"),
    *("data/train.parquet", "adapter/optimizer.pt", "onnx/.cache/x.onnx"),
]
CARD = """
![A picture](confusion.png), [int8](results/int8/eval_results.json) and [more](docs/more.md)

<!-- int8 -->
<!-- /int8 -->
"""
MORE = "[Figures](../results/eval_results.json), ![a picture](../examples/app.png), the [card](../README.md)\n"
VERSIONS = ("2.0.0", "1.1.0-rc.1", "1.0.1", "1.0.0", "1.0.0-rc.1", "0.9.0")
EXPECTED = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *(["special_tokens_map.json"] if transformers.__version__[0] == "4" else []),  # 5 writes none
    *("README.md", "LICENSE", "docs/more.md", "examples/app.png", "notebook.ipynb"),
    *("eval_results.json", "bench/results/int8/eval_results.json"),
    *(
        "configuration_tsn.py",
        "modeling_tsn.py",
        "graph_tsn.py",
        "onnx_tsn.py",
        "openvino_tsn.py",
        "tagging_tsn.py",
        "chunking_tsn.py",
        "pipeline_tsn.py",
    ),
    *("handler.py", "app.py", "highlight_tsn.py", "requirements.txt", "requirements-space.txt", "confusion.png"),
    *("onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/quantization_report.json", "onnx/ort_config.json"),
    *("openvino/model_quantized.xml", "openvino/model_quantized.bin", "openvino/quantization_report.json"),
    ".gitattributes",
    *("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/config.json"),
}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def record_tests(folder, **values):
    """What `make test` leaves behind."""
    head = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8").stdout
    record = {"commit": head.strip(), "clean": True, "exit_status": 0, "passed": 9, "failed": 0, **values}
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / "test_results.json").write_text(json.dumps(record), "utf-8")


def commit_all(folder):
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "-qm", "state", "--allow-empty")
    record_tests(folder)


def evaluate(folder, data_file):
    import eval as evaluation

    evaluation.main([str(folder), str(data_file), "--output_dir", str(folder / "results")])


def report_graphs(folder):
    """The part of quantize.py's reports that a release reads."""
    paths = [path for name in ("onnx", "openvino") for path in (folder / name).iterdir()]
    files = {path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in paths}
    report = {"weights_sha256": sha256(folder / "model.safetensors"), "files": files, "trials": [{"fp32_layers": []}]}
    report |= {"processor": {"name": "x", "features": []}, "eval_files": [], "max_drop": None, "preset": "avx2"}
    for place in ("onnx", "openvino", "results/int8"):
        (folder / place / "quantization_report.json").write_text(json.dumps(report), "utf-8")


@pytest.fixture(scope="session")
def original(onnx_folder, openvino_folder, data_file, tmp_path_factory):
    """A clone of the code with a tiny model in place of the shipped one, and files that must not travel."""
    import eval as evaluation
    from tsn.hub.card import NEW_CARD

    folder = tmp_path_factory.mktemp("release") / "clone"
    shutil.copytree(onnx_folder, folder)
    (folder / "openvino").mkdir()
    for path in (openvino_folder / "openvino").glob("model_quantized.*"):
        shutil.copy(path, folder / "openvino")
    for path in (*ROOT.glob("*.py"), ROOT / ".gitignore", ROOT / "LICENSE"):
        shutil.copy(path, folder)
    for name in ("tsn", "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    evaluate(folder, data_file)
    for name in ("adapter", "checkpoint-10"):
        (folder / name).mkdir()
        for file in ("adapter_config.json", "config.json"):
            (folder / name / file).write_text("{}", "utf-8")
        (folder / name / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (folder / "confusion.png").write_bytes(b"\x89PNG")
    int8 = folder / "results" / "int8"
    int8.mkdir(parents=True)
    evaluation.main([str(folder), str(data_file), "--onnx_file", "model_quantized.onnx", "--output_dir", str(int8)])
    report_graphs(folder)
    for page, text in (("docs/more.md", MORE), ("examples/app.png", "PNG")):
        (folder / page).parent.mkdir(exist_ok=True)
        (folder / page).write_text(text, "utf-8")
    shutil.copy(ROOT / "examples" / "notebook.ipynb", folder / "examples")
    entries = "".join(f"\n## [{version}] - 2026-11-25\n\n- Better.\n" for version in VERSIONS)
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n{entries}", "utf-8")
    card = NEW_CARD.format(name="tsn", task="topic-sentiment-ner") + CARD
    (folder / "README.md").write_text(card, "utf-8")
    subprocess.run([sys.executable, "-m", "tsn.hub.card"], cwd=folder, check=True)
    for name in PLANTED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("hf_" + "a" * 34, "utf-8")
    run_git(folder, "init", "-q")
    commit_all(folder)
    return folder


@pytest.fixture
def clone(original, tmp_path):
    return shutil.copytree(original, tmp_path / "clone")


@pytest.fixture
def hub(tmp_path):
    with Hub(tmp_path / "hub") as server:
        yield server


def lay_out_as_on_the_hub(folder):
    """Puts the clone's files in `out/hub` under their names there: what is compared where a test does without a
    download. The names are written out here, not asked of the code that is tested."""
    there = folder / "out" / "hub"
    moved = {"eval_results.json": "results/eval_results.json", "requirements.txt": "requirements/endpoint.txt"}
    moved |= {"requirements-space.txt": "requirements/space.txt", "notebook.ipynb": "examples/notebook.ipynb"}
    for name in EXPECTED - {".gitattributes"}:
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / moved.get(name, name.removeprefix("bench/")), there / name)
    card = (folder / "README.md").read_text("utf-8")
    (there / "README.md").write_text(card.replace("](results/", "](bench/results/"), "utf-8")
    (there / "docs/more.md").write_text(MORE.replace("../results/eval", "../eval"), "utf-8")


def start(folder, hub, *arguments, version="1.0.0", token="writer-token", stub="none"):
    """The command in a process of its own, whose only network is the hub."""
    if stub == "all":
        lay_out_as_on_the_hub(folder)
    home = folder.parent / "home"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    environment = kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment |= {"HF_TOKEN": token} if token else {}
    command = [sys.executable, "-c", RUNNER, stub, "--repo_id", "org/tsn", "--version", version, *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=PIPE, stderr=PIPE, encoding="utf-8")


def release(*given, **options):
    process = start(*given, **options)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def tags(hub):
    try:
        return hub.store.load("org/tsn")["tags"]
    except HubError:
        return {}
