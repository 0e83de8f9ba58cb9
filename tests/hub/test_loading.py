"""What a user of any transformers does with a release: load a version by its tag, over HTTP, into an empty cache."""

import json
import os
import subprocess
import sys

import pytest

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


def publish(store, folder, version):
    """A commit and its tag, put into the store: huggingface_hub 2 uploads by a protocol that this server lacks."""
    large = (".safetensors", ".onnx")
    files = {path.name: store.entry(path.read_bytes(), path.suffix in large) for path in folder.iterdir()}
    repo_commit = store.commit("org/tsn", "main", version, files, [], None)
    store.save("org/tsn", (repo := store.load("org/tsn")) | {"tags": {**repo["tags"], version: repo_commit}})


def test_two_versions_load_by_tag(tmp_path):
    models = {"v1.0.0": make_model("bert", len(make_tokenizer())), "v1.1.0": make_model("distilbert", 200)}
    folders = {version: tmp_path / version for version in models}
    for version, model in models.items():
        write_hub_folder(model, make_tokenizer(), folders[version])
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    with Hub(tmp_path / "hub") as hub:
        hub.store.create("org/tsn", private=True)
        for version, folder in folders.items():
            publish(hub.store, folder, version)
        hub.faults = [Fault("GET", r"/lfs/\w{64}", do="cut")]
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps([list(folders), TEXTS]),
            env=kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")},
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
        )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers["v1.0.0"] != answers["v1.1.0"]
    for version, folder in folders.items():
        assert answers[version] == TSNPipeline(TSNModel.from_pretrained(folder).eval(), make_tokenizer())(TEXTS)
