"""What a user of any transformers does with a release: load a version by its tag, over HTTP, into an empty cache."""

import json
import os
import subprocess
import sys

import pytest

from configuration_tsn import RUNTIME_FILES
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, make_model, make_tokenizer
from tests.hub.hub_server import Fault, Hub
from tsn.hub.folder import write_hub_folder

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from transformers import pipeline
versions, texts = json.load(sys.stdin)
hub = {"trust_remote_code": True, "token": "reader-token"}
answers = {}
for version in [*versions, *versions]:
    found = pipeline("topic-sentiment-ner", model="org/tsn", revision=version, **hub)(texts)
    assert found == answers.setdefault(version, found), version
print(json.dumps(answers))
"""

# Saved without that a pipeline was ever loaded, and then all that there is.
SAVING = """
import json, sys
from transformers import AutoModel, AutoTokenizer, pipeline
hub = {"trust_remote_code": True, "token": "reader-token"}
for kind in (AutoModel, AutoTokenizer):
    kind.from_pretrained("org/tsn", **hub).save_pretrained("saved")
assert "org/tsn" not in open("saved/config.json").read()
print(json.dumps(pipeline("topic-sentiment-ner", model="./saved", trust_remote_code=True)(json.load(sys.stdin))))
"""


def publish(store, folder, version):
    """A commit and its tag, put into the store: uploads are tested with `release.py`."""
    large = (".safetensors", ".onnx")
    files = {path.name: store.entry(path.read_bytes(), path.suffix in large) for path in folder.iterdir()}
    repo_commit = store.commit("org/tsn", "main", version, files, [], None)
    store.save("org/tsn", (repo := store.load("org/tsn")) | {"tags": {**repo["tags"], version: repo_commit}})


def run(script, data, hub, folder):
    """What a fresh process with an empty cache prints last."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(data),
        env=kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home")},
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_two_versions_load_by_tag(tmp_path):
    models = {"v1.0.0": make_model("bert", len(make_tokenizer())), "v1.1.0": make_model("distilbert", 200)}
    folders = {version: tmp_path / version for version in models}
    for version, model in models.items():
        write_hub_folder(model, make_tokenizer(), folders[version])
    with Hub(tmp_path / "hub") as hub:
        hub.store.create("org/tsn", private=True)
        for version, folder in folders.items():
            publish(hub.store, folder, version)
        hub.faults = [Fault("GET", r"/lfs/\w{64}", do="cut")]
        answers = run(SCRIPT, [list(folders), TEXTS], hub, tmp_path)
    assert answers["v1.0.0"] != answers["v1.1.0"]
    for version, folder in folders.items():
        assert answers[version] == TSNPipeline(TSNModel.from_pretrained(folder).eval(), make_tokenizer())(TEXTS)


def test_a_model_of_the_hub_is_saved_with_all_its_code(tmp_path):
    write_hub_folder(make_model("bert", len(make_tokenizer())), make_tokenizer(), tmp_path / "model")
    with Hub(tmp_path / "hub") as hub:
        hub.store.create("org/tsn", private=True)
        publish(hub.store, tmp_path / "model", "v1.0.0")
        answers = run(SAVING, TEXTS, hub, tmp_path)
    assert answers == TSNPipeline(TSNModel.from_pretrained(tmp_path / "model").eval(), make_tokenizer())(TEXTS)
    for name in RUNTIME_FILES:
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
