"""`release.py` as a whole, by its command line, against a Hub on loopback: what travels, what is tagged."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from conftest import ROOT, TEXTS, make_model, make_tokenizer
from hub_server import Fault, Hub, HubError

import eval as evaluation
from card_tsn import NEW_CARD
from hub_tsn import write_hub_folder
from verify_tsn import same

pytestmark = pytest.mark.slow

# Short patience. Where a test is not about them, fresh processes are not asked: `stub` is "local" for the one that
# loads the files here, "all" for the one that downloads them, too.
RUNNER = """
import sys, release, upload_tsn
upload_tsn.CONNECT_TIMEOUT = upload_tsn.READ_TIMEOUT = 1.5
upload_tsn.RETRIES = 2
from pathlib import Path
stub, ask = sys.argv[1], release.ask
def answer(*given):
    real = stub == "none" or stub == "local" and len(given) > 3
    return ask(*given) if real else {"torch": []}
release.ask = answer
if stub == "all":
    release.download = lambda *_: Path(".").resolve()
release.main(sys.argv[2:])
"""
PLANTED = [
    *(".env", "token.txt", "training_args.bin", "optimizer.pt", "model.bin", "notes.md", "eval.log", "onnx/model.ort"),
    *("out/checkpoint-1/optimizer.pt", "out/checkpoint-1/model.safetensors", ".cache/x.json", "__pycache__/a.pyc"),
    *("data/train.parquet", "adapter/optimizer.pt", "onnx/.cache/x.onnx"),
]
CARD = """
![A picture](confusion.png) and [int8](bench/results/int8/eval_results.json)

<!-- int8 -->
<!-- /int8 -->
"""
EXPECTED = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("README.md", "eval_results.json", "bench/results/int8/eval_results.json"),
    *(
        "configuration_tsn.py",
        "modeling_tsn.py",
        "onnx_tsn.py",
        "tagging_tsn.py",
        "chunking_tsn.py",
        "pipeline_tsn.py",
    ),
    *("handler.py", "app.py", "highlight_tsn.py", "requirements.txt", "requirements-space.txt", "confusion.png"),
    *("onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/quantization_report.json", ".gitattributes"),
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
    evaluation.main([str(folder), str(data_file), "--output_dir", str(folder)])


def report_onnx(folder):
    """The part of quantize.py's report that a release reads."""
    files = {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in (folder / "onnx").glob("*.onnx")
    }
    report = {"weights_sha256": sha256(folder / "model.safetensors"), "files": files, "trials": [{"fp32_layers": []}]}
    report |= {"processor": {"name": "x", "features": []}, "eval_files": [], "max_drop": None, "preset": "avx2"}
    for place in ("onnx", "bench/results/int8"):
        (folder / place / "quantization_report.json").write_text(json.dumps(report), "utf-8")


@pytest.fixture(scope="module")
def original(onnx_folder, data_file, tmp_path_factory):
    """A clone of the code with a tiny model in place of the shipped one, and files that must not travel."""
    folder = tmp_path_factory.mktemp("release") / "clone"
    shutil.copytree(onnx_folder, folder)
    # As it stands on the Hub: what is compared where a test does without a download.
    shutil.copy(ROOT / "requirements-endpoint.txt", folder / "requirements.txt")
    for path in (*ROOT.glob("*.py"), *ROOT.glob("requirements-*.txt"), ROOT / ".gitignore"):
        shutil.copy(path, folder)
    shutil.copytree(ROOT / "bench", folder / "bench", ignore=shutil.ignore_patterns("results", "__pycache__"))
    evaluate(folder, data_file)
    for name in ("adapter", "checkpoint-10"):
        (folder / name).mkdir()
        for file in ("adapter_config.json", "config.json"):
            (folder / name / file).write_text("{}", "utf-8")
        (folder / name / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (folder / "confusion.png").write_bytes(b"\x89PNG")
    int8 = folder / "bench" / "results" / "int8"
    int8.mkdir(parents=True)
    evaluation.main([str(folder), str(data_file), "--onnx_file", "model_quantized.onnx", "--output_dir", str(int8)])
    report_onnx(folder)
    card = NEW_CARD.format(name="tsn", task="topic-sentiment-ner") + CARD
    (folder / "README.md").write_text(card, "utf-8")
    subprocess.run([sys.executable, "card_tsn.py"], cwd=folder, check=True)
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


def start(folder, hub, *arguments, version="1.0.0", token="writer-token", stub="none"):
    """The command in a process of its own, whose only network is the hub."""
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
        shutil.rmtree(folder / "onnx")
        (folder / "README.md").write_text(NEW_CARD.format(name="tsn", task="t") + "![A](confusion.png)\n", "utf-8")
        evaluate(folder, data_file)
        subprocess.run([sys.executable, "card_tsn.py"], cwd=folder, check=True)
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
        name for name in EXPECTED if not name.startswith(("onnx/", "bench/"))
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
        ([Fault("POST", "/preupload/", do="stall", seconds=2, times=9)], ["does not answer"]),
        ([Fault("POST", "/objects/batch", do="drop", times=9)], ["cannot be reached"]),
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
    assert again.returncode == 0 and "released already" in again.stderr
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
    assert done.returncode == 1 and "answers otherwise" in done.stderr and not tags(hub), done.stderr


def test_a_private_release_on_a_branch(clone, hub):
    done = release(clone, hub, "--private", "--revision", "maintenance", stub="all")
    assert done.returncode == 0, done.stderr
    repository = hub.store.load("org/tsn")
    assert repository["private"] and repository["tags"]["v1.0.0"] == repository["branches"]["maintenance"]
    assert repository["branches"]["main"] != repository["branches"]["maintenance"]
    for token, words in (("unknown", "not known"), ("reader-token", "write access"), (None, "no token")):
        refused = release(clone, hub, version="1.0.1", token=token, stub="all")
        assert refused.returncode == 1 and words in refused.stderr, refused.stderr


def edit(name, change):
    def do(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return do


def edit_json(name, **values):
    return edit(name, lambda content: json.dumps({**json.loads(content), **values}).encode())


def quantize_again(folder):
    """As after a `make int8` that was stopped before it measured."""
    edit("onnx/model_quantized.onnx", lambda content: content + b"\0")(folder)
    report = json.loads((folder / "onnx" / "quantization_report.json").read_text("utf-8"))
    report["files"]["model_quantized.onnx"]["sha256"] = sha256(folder / "onnx" / "model_quantized.onnx")
    (folder / "onnx" / "quantization_report.json").write_text(json.dumps(report), "utf-8")


@pytest.mark.parametrize(
    "harm, words, commits",
    [
        (edit("handler.py", lambda code: code + b"# changed\n"), "not clean", False),
        (lambda folder: (folder / "out" / "test_results.json").unlink(), "were not run", False),
        (lambda folder: record_tests(folder, exit_status=1, failed=2), "2 failed of 11", False),
        (lambda folder: record_tests(folder, clean=False), "another state", False),
        (edit("handler.py", lambda code: code + b"# changed\n"), None, True),
        (lambda folder: shutil.rmtree(folder / "onnx"), "tells of int8", True),
        (quantize_again, "int8/eval_results.json was measured on another file than onnx/", True),
        (edit_json("eval_results.json", weights_sha256="0"), "eval_results.json was measured on other weights", True),
        (edit("onnx/model_quantized.onnx", lambda content: content + b"\0"), "onnx/model_quantized.onnx", True),
        (edit_json("onnx/quantization_report.json", weights_sha256="0"), "of other weights", True),
        (lambda folder: (folder / "handler.py").unlink(), "handler.py belongs to a release", True),
        (lambda folder: (folder / "confusion.png").unlink(), "confusion.png", True),
        (edit("README.md", lambda card: card + b"[x](../secret.md)\n"), "../secret.md", True),
        (edit("README.md", lambda card: card + b"[x](.env)\n"), ".env", True),
        (edit("README.md", lambda card: card + b"hf_" + b"a" * 34), "README.md holds an access token", True),
        (edit_json("config.json", _name_or_path="/home/someone/model"), "config.json holds a path", True),
        (edit("README.md", lambda card: card.replace(b"<!-- results -->", b"")), "no <!-- results -->", True),
        (edit("README.md", lambda card: card.replace(b"| all ", b"| ALL ", 1)), "behind the recorded results", True),
        (edit("modeling_tsn.py", lambda code: b"import no_such_package\n" + code), "no_such_package", True),
    ],
)
def test_what_is_not_fit_is_not_released(clone, hub, harm, words, commits):
    harm(clone)
    if commits:
        commit_all(clone)
    done = release(clone, hub, "--dry_run") if words is None else release(clone, hub)
    assert done.returncode == (words is not None), done.stderr
    assert words is None or words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not [path for method, path in hub.requests if method != "GET"]


@pytest.mark.parametrize("repo_id", ["tsn", "a/b/c", "a b/c", "../x", ""])
def test_repositories_are_named_in_full(clone, hub, repo_id):
    done = release(clone, hub, "--repo_id", repo_id)
    assert done.returncode == 1 and "--repo_id must be ORG/NAME" in done.stderr and not hub.requests


def test_a_branch_is_not_named_like_a_tag(clone, hub):
    done = release(clone, hub, "--revision", "v1.0.0")
    assert done.returncode == 1 and "--revision is a branch" in done.stderr and not hub.requests


def test_what_no_release_put_there_is_not_deleted(clone, hub):
    """As where --repo_id is another repository's, by a slip."""
    hub.store.create("org/tsn", private=False)
    hub.store.commit("org/tsn", "main", "a thesis", {"thesis.md": hub.store.entry(b"# Years of work")}, [], None)
    done = release(clone, hub, stub="all")
    assert done.returncode == 1 and "thesis.md" in done.stderr and not tags(hub)
    repository = hub.store.load("org/tsn")
    assert "thesis.md" in repository["commits"][repository["branches"]["main"]]["files"]


@pytest.mark.parametrize("version", ["1.2", "v1.2.0", "1.2.0+build", "latest", "01.2.3", ""])
def test_versions_are_semantic(clone, hub, version):
    done = release(clone, hub, version=version)
    assert done.returncode == 1 and "semantic version" in done.stderr and not hub.requests


def test_a_dry_run_prints_files_sizes_and_card_and_asks_no_server(clone, hub):
    done = release(clone, hub, "--dry_run", token=None)
    assert done.returncode == 0 and not hub.requests, done.stderr
    listed = {}
    for line in done.stdout.partition("\n\n")[0].splitlines()[:-1]:
        size, name = line.split()
        listed[name] = int(size.replace(",", ""))
    assert set(listed) == EXPECTED - {".gitattributes"}
    assert listed["model.safetensors"] == (clone / "model.safetensors").stat().st_size
    assert done.stdout.endswith((clone / "README.md").read_text("utf-8"))


def test_a_model_of_ones_own(clone, hub, data_file):
    """Its folder is what train.py wrote, with eval.py's results; `card_tsn.py` begins the card."""
    folder = clone / "out" / "reviews"
    tokenizer = make_tokenizer()
    write_hub_folder(make_model("bert", len(tokenizer)), tokenizer, folder)
    evaluate(folder, data_file)
    subprocess.run([sys.executable, "card_tsn.py", str(folder)], cwd=clone, check=True)
    done = release(clone, hub, str(folder), "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "# reviews" in done.stdout and "model-index" in done.stdout and "| all" in done.stdout


def test_how_all_tests_ended_is_recorded(clone):
    """`make test` runs pytest without arguments; a part of the tests, or a change since, is no pass of all."""
    (clone / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "record_tests.py", clone / "tests" / "conftest.py")
    shutil.copy(ROOT / "pyproject.toml", clone)
    test, record = clone / "tests" / "test_x.py", clone / "out" / "test_results.json"
    for body, passed, failed in (("assert True", 1, 0), ("assert False", 0, 1)):
        test.write_text(f"def test_x():\n    {body}\n", "utf-8")
        commit_all(clone)
        record.unlink()
        for arguments in (["tests/test_x.py"], ["-k", "x"], ["--ignore", "bench"]):
            subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], cwd=clone, capture_output=True)
            assert not record.exists()
        subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=clone, capture_output=True)
        found = json.loads(record.read_text("utf-8"))
        assert (found["passed"], found["failed"], found["clean"]) == (passed, failed, True)
        assert found["exit_status"] == failed and len(found["commit"]) == 40
