"""`release.py --int8_repository`: the int8 model in a repository of its own, released together with the model."""

import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from tests.conftest import TEXTS, make_tokenizer
from tests.hub.hub_server import Fault
from tests.hub.release_workshop import EXPECTED, commit_all, release, tags
from tsn.hub.verify import same

pytestmark = pytest.mark.slow
INT8 = ("--int8_repository", "org/tsn-int8")
LEFT_OUT = {"model.safetensors", "onnx/model.onnx", "handler.py", "app.py", "highlight_tsn.py"}
LEFT_OUT |= {"confusion.png", "notebook.ipynb"}
FOLDERS = ("adapter/", "openvino/", "bench/", "docs/", "examples/", "requirements")


def tags_of_int8(hub):
    return hub.store.load("org/tsn-int8")["tags"]


def test_both_are_released_or_neither(clone, hub):
    """And a run after one that was interrupted releases what is left."""
    hub.faults = [Fault("POST", "/org/tsn-int8/commit/", do="forget")]
    failed = release(clone, hub, *INT8, stub="answers")
    assert failed.returncode == 1 and "does not hold what was sent" in failed.stderr, failed.stderr
    assert not tags(hub) and not tags_of_int8(hub)
    hub.faults = [Fault("POST", "/org/tsn-int8/tag/", status=403)]
    stopped = release(clone, hub, *INT8, stub="answers")
    assert stopped.returncode == 1 and "may not write to org/tsn-int8" in stopped.stderr, stopped.stderr
    assert tags(hub) and not tags_of_int8(hub)
    done = release(clone, hub, *INT8, stub="answers")
    assert done.returncode == 0 and "v1.0.0 of org/tsn has already been released" in done.stderr, done.stderr
    assert done.stdout.splitlines() == [f"{hub.url}/{name}/tree/v1.0.0" for name in ("org/tsn", "org/tsn-int8")]

    repository = hub.store.load("org/tsn-int8")
    files = repository["commits"][repository["tags"]["v1.0.0"]]["files"]
    assert set(files) == {n for n in EXPECTED if n not in LEFT_OUT and not n.startswith(FOLDERS)}
    card = ModelCard(hub.store.get(files["README.md"]["sha256"]).decode())
    assert (card.data.base_model, card.data.base_model_relation) == ("org/tsn", "quantized")
    recorded = json.loads((clone / "results/int8/eval_results.json").read_text("utf-8"))["results"]["all"]
    results = {r.metric_name: r.metric_value for r in card.data.eval_results if r.dataset_type == "tsn-test"}
    assert results["NER f1"] == round(recorded["ner_f1"], 4) and "| int8 " in card.text
    assert json.loads(hub.store.get(files["eval_results.json"]["sha256"]))["results"]["all"] == recorded


def test_the_line_of_its_card_loads_it(clone, hub, tmp_path):
    """From its own files alone, with the answers of the file here."""
    from modeling_tsn import TSNModel
    from pipeline_tsn import TSNPipeline

    done = release(clone, hub, *INT8, stub="answers")
    assert done.returncode == 0, done.stderr
    repository = hub.store.load("org/tsn-int8")
    readme = repository["commits"][repository["tags"]["v1.0.0"]]["files"]["README.md"]["sha256"]
    code = hub.store.get(readme).decode().partition("```python\n")[2].partition("```")[0]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(tsn(json.load(sys.stdin))))"],
        input=json.dumps(TEXTS),
        cwd=tmp_path,
        env=kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        encoding="utf-8",
    )
    assert loaded.returncode == 0, loaded.stderr
    here = TSNPipeline(TSNModel.from_pretrained(clone, onnx_file="model_quantized.onnx"), make_tokenizer())
    assert same(json.loads(loaded.stdout), here(TEXTS))


@pytest.mark.parametrize(
    "harm, name, words",
    [
        (lambda folder: (folder / "onnx/model_quantized.onnx").unlink(), "org/i", "needs onnx/model_quantized.onnx"),
        (lambda folder: (folder / "onnx/model_quantized.onnx").write_bytes(b""), "org/i", "measured on another file"),
        (lambda folder: None, "i", "--int8_repository must be ORG/NAME"),
        (lambda folder: None, "org/tsn", "another one than --repo_id"),
    ],
)
def test_what_is_not_fit_is_not_released(clone, hub, harm, name, words):
    harm(clone)
    commit_all(clone)
    done = release(clone, hub, "--int8_repository", name)
    assert done.returncode == 1 and words in done.stderr and not hub.requests, done.stderr


def test_a_dry_run_shows_both(clone, hub):
    done = release(clone, hub, *INT8, "--dry_run", token=None)
    assert done.returncode == 0 and not hub.requests, done.stderr
    assert "# tsn\n" in done.stdout and "# tsn-int8\n" in done.stdout
