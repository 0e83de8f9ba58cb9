"""`release.py` by its command line, against a Hub on loopback: two versions, a network that breaks, a second run."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import TEXTS, make_model, make_tokenizer
from tests.hub.hub_server import Fault, Hub
from tests.hub.release_workshop import EXPECTED, commit_all, evaluate, release, start, tags
from tsn.hub.card import NEW_CARD
from tsn.hub.folder import write_hub_folder
from tsn.hub.verify import same

pytestmark = pytest.mark.slow

LOAD = """
import json, sys
from huggingface_hub import snapshot_download
from transformers import pipeline
answers = []
for revision, onnx in json.loads(sys.argv[1]):
    options = {"model_kwargs": {"onnx_file": onnx}} if onnx else {}
    tsn = pipeline("topic-sentiment-ner", model="org/tsn", revision=revision, trust_remote_code=True, **options)
    answers.append(tsn(json.loads(sys.argv[2])))
print(json.dumps([answers, snapshot_download("org/tsn", revision="v1.0.0")]))
"""


@pytest.fixture(scope="module")
def two(original, data_file, tmp_path_factory):
    """Two versions, the first over a network that breaks wherever it can; and what they give by their tags."""
    base = tmp_path_factory.mktemp("two")
    folder, found = shutil.copytree(original, base / "clone"), {}
    with Hub(base / "hub") as hub:
        hub.faults = [
            Fault("POST", "/repos/create", status=500),
            Fault("POST", "/preupload/", do="stall", seconds=3),
            Fault("PUT", "/lfs/upload/", do="drop", times=2),
            Fault("PUT", "/lfs/upload/", status=500),
            Fault("POST", "/commit/", status=503, headers={"Retry-After": "2"}),
            Fault("POST", "/commit/", do="lose"),
            Fault("GET", "/tree/", status=502),
            Fault("GET", r"/lfs/\w{64}", do="cut"),
            Fault("POST", "/tag/", do="lose"),
        ]
        found["first"] = release(folder, hub)
        assert found["first"].returncode == 0, found["first"].stderr
        found["left"] = [fault for fault in hub.faults if fault.times]
        write_hub_folder(make_model("distilbert", len(make_tokenizer()), pooling="mean"), make_tokenizer(), folder)
        for graphs in ("onnx", "openvino"):
            shutil.rmtree(folder / graphs)
        (folder / "README.md").write_text(NEW_CARD.format(name="tsn", task="t") + "![A](confusion.png)\n", "utf-8")
        evaluate(folder, data_file)
        subprocess.run([sys.executable, "-m", "tsn.hub.card"], cwd=folder, check=True)
        commit_all(folder)
        found["second"] = release(folder, hub, version="1.1.0-rc.1")
        assert found["second"].returncode == 0, found["second"].stderr
        found["repository"], found["times"] = hub.store.load("org/tsn"), list(hub.times)
        plan = [["v1.0.0", None], ["v1.1.0-rc.1", None], ["v1.0.0", None], ["v1.0.0", "model_quantized.onnx"]]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
        loaded = subprocess.run(
            [sys.executable, "-c", LOAD, json.dumps(plan), json.dumps(TEXTS)],
            cwd=base,
            env=kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(base / "home")},
            capture_output=True,
            encoding="utf-8",
        )
        assert loaded.returncode == 0, loaded.stderr
        found["loaded"], found["folder"] = json.loads(loaded.stdout)
        found["files"] = {path.name for path in Path(found["folder"]).iterdir()}
    return found


def test_two_versions_are_released_over_a_network_that_breaks(two):
    for name, version in (("first", "v1.0.0"), ("second", "v1.1.0-rc.1")):
        assert two[name].stdout.endswith(f"/org/tsn/tree/{version}\n")
    assert not two["left"], "these faults were never met"
    commits = [when for method, path, when in two["times"] if "/commit/" in path]
    assert commits[1] - commits[0] >= 2  # Retry-After


def test_a_version_is_one_commit_and_its_tag_names_it(two):
    commits, named = two["repository"]["commits"], two["repository"]["tags"]
    first, second = (commits[named[name]] for name in ("v1.0.0", "v1.1.0-rc.1"))
    assert len(commits) == 3 and commits[first["parent"]]["parent"] is None and second["parent"] == named["v1.0.0"]
    assert "v1.0.0" in first["message"] and two["repository"]["branches"]["main"] == named["v1.1.0-rc.1"]


def test_only_the_listed_files_travel(two, original):
    commits, named = two["repository"]["commits"], two["repository"]["tags"]
    assert set(commits[named["v1.0.0"]]["files"]) == EXPECTED
    assert set(commits[named["v1.1.0-rc.1"]]["files"]) == {
        name for name in EXPECTED if not name.startswith(("onnx/", "openvino/", "bench/", "docs/", "examples/"))
    }
    assert two["files"] == {name.partition("/")[0] for name in EXPECTED}


def test_versions_load_by_tag_with_their_own_answers(two, original):
    from modeling_tsn import TSNModel
    from pipeline_tsn import TSNPipeline

    first, second, again, int8 = two["loaded"]
    expected = TSNPipeline(TSNModel.from_pretrained(original), make_tokenizer())(TEXTS)
    assert same(first, expected) and same(again, first) and not same(second, first)
    quantized = TSNModel.from_pretrained(original, onnx_file="model_quantized.onnx")
    assert same(int8, TSNPipeline(quantized, make_tokenizer())(TEXTS)) and not same(int8, first)


@pytest.mark.parametrize(
    "faults, words",
    [
        ([Fault("GET", "/refs", status=401)], ["token", "401"]),
        ([Fault("POST", "/create", status=403)], ["write access", "403"]),
        ([Fault("POST", "/commit/", status=403)], ["write access", "403"]),
        ([Fault("POST", "/commit/", status=409)], ["changed by someone else", "409"]),
        ([Fault("POST", "/commit/", status=412)], ["changed by someone else", "412"]),
        ([Fault("POST", "/commit/", status=500, times=9)], ["500", "later"]),
        ([Fault("POST", "/commit/", status=503, headers={"Retry-After": "1"}, times=9)], ["503", "later"]),
        ([Fault("POST", "/commit/", status=429, headers={"Retry-After": "900"})], ["429", "later"]),
        ([Fault("POST", "/preupload/", do="stall", seconds=2, times=99)], ["does not answer"]),
        ([Fault("POST", "/objects/batch", do="drop", times=99)], ["cannot be reached"]),
        ([Fault("POST", "/commit/", do="forget")], ["does not hold what was sent"]),
        ([Fault("POST", "/validate-yaml", status=400)], ["metadata"]),
    ],
    ids=lambda value: f"{value[0].do}-{value[0].status}" if isinstance(value[0], Fault) else "",
)
def test_what_cannot_be_retried_ends_with_a_message_and_no_tag(clone, hub, faults, words):
    hub.faults = list(faults)
    done = release(clone, hub, stub="all")
    assert done.returncode == 1 and not done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr and all(word in done.stderr for word in words), done.stderr
    assert last.startswith(("release.py: ", "-")) and not tags(hub)
    assert not [path for method, path in hub.requests if "/tag/" in path]


def test_an_upload_that_is_killed_goes_on_in_a_second_run(clone, hub):
    """What was received is not sent again; what comes back otherwise is not tagged; a tag is never moved."""
    hub.faults = [Fault("PUT", "/lfs/upload/", do="stall", seconds=30)]
    process = start(clone, hub, stub="local")
    while sum(method == "PUT" for method, _ in hub.requests) < 3 or len(list(hub.store.folder.glob("objects/*"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()
    received = {path.name for path in hub.store.folder.glob("objects/*")}
    assert not tags(hub) and len(hub.store.load("org/tsn")["commits"]) == 1
    hub.requests.clear()
    hub.faults = [Fault("GET", "/resolve/[^/]+/README.md", do="flip")]
    second = release(clone, hub, stub="local")
    assert second.returncode == 1 and "is not the file that was sent" in second.stderr and not tags(hub), second.stderr
    sent = {path.rpartition("/")[2] for method, path in hub.requests if method == "PUT"}
    assert sent and not sent & received
    third = release(clone, hub, stub="all")
    assert third.returncode == 0, third.stderr
    repository = hub.store.load("org/tsn")
    assert repository["tags"] == {"v1.0.0": repository["branches"]["main"]} and len(repository["commits"]) == 2
    again = release(clone, hub, stub="all")
    assert again.returncode == 0 and "already been released" in again.stderr
    (clone / "handler.py").write_text((clone / "handler.py").read_text("utf-8") + "# changed\n", "utf-8")
    commit_all(clone)
    for version, words in (("1.0.0", "holds other files"), ("0.9.0", "must be greater"), ("1.0.0-rc.1", "greater")):
        moved = release(clone, hub, version=version, stub="all")
        assert moved.returncode == 1 and words in moved.stderr, moved.stderr
    assert hub.store.load("org/tsn") == repository
    unlike = release(clone, hub, "--private", version="2.0.0", stub="all")
    assert unlike.returncode == 1 and "is public" in unlike.stderr


def test_answers_that_differ_are_not_tagged(clone, hub):
    """As when the Hub's copy of the weights is another one."""
    done = release(clone, hub, stub="local")
    assert done.returncode == 1 and "gives other answers" in done.stderr and not tags(hub), done.stderr


def test_a_private_release_on_a_branch(clone, hub):
    done = release(clone, hub, "--private", "--revision", "maintenance", stub="all")
    assert done.returncode == 0, done.stderr
    repository = hub.store.load("org/tsn")
    assert repository["private"] and repository["tags"]["v1.0.0"] == repository["branches"]["maintenance"]
    assert repository["branches"]["main"] != repository["branches"]["maintenance"]
    for token, words in (("unknown", "not known"), ("reader-token", "write access"), (None, "no token")):
        refused = release(clone, hub, version="1.0.1", token=token, stub="all")
        assert refused.returncode == 1 and words in refused.stderr, refused.stderr
