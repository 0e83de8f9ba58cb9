"""What `release.py` does not let pass: its checks before anything is sent, its dry run, and a model of one's own."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, make_model, make_tokenizer
from tests.hub.release_workshop import EXPECTED, commit_all, evaluate, record_tests, release, sha256, tags
from tsn.hub.files import hub_page
from tsn.hub.folder import write_hub_folder

pytestmark = pytest.mark.slow


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
        (lambda folder: (folder / "out" / "test_results.json").unlink(), "have not been run", False),
        (lambda folder: record_tests(folder, exit_status=1, failed=2), "2 failed of 11", False),
        (lambda folder: record_tests(folder, clean=False), "another state", False),
        (edit("handler.py", lambda code: code + b"# changed\n"), None, True),
        (lambda folder: shutil.rmtree(folder / "onnx"), "reports int8 results", True),
        (quantize_again, "int8/eval_results.json was measured on another file than onnx/", True),
        (
            edit_json("results/eval_results.json", weights_sha256="0"),
            "eval_results.json was measured on other weights",
            True,
        ),
        (edit("onnx/model_quantized.onnx", lambda content: content + b"\0"), "onnx/model_quantized.onnx", True),
        (edit_json("onnx/quantization_report.json", weights_sha256="0"), "of other weights", True),
        (
            edit("openvino/model_quantized.bin", lambda content: content + b"\0"),
            "model_quantized.bin is not",
            True,
        ),
        (edit_json("openvino/quantization_report.json", weights_sha256="0"), "files of openvino/ were made of", True),
        (lambda folder: (folder / "openvino/quantization_report.json").unlink(), "openvino/ is there without", True),
        (lambda folder: (folder / "handler.py").unlink(), "handler.py belongs to a release", True),
        (lambda folder: (folder / "confusion.png").unlink(), "confusion.png", True),
        (edit("README.md", lambda card: card + b"[x](../secret.md)\n"), "../secret.md", True),
        (edit("README.md", lambda card: card + b"[x](.env)\n"), ".env", True),
        (edit("README.md", lambda card: card + b"hf_" + b"a" * 34), "README.md holds an access token", True),
        (edit("docs/more.md", lambda page: page + b"hf_" + b"a" * 34), "docs/more.md holds an access token", True),
        (edit("docs/more.md", lambda page: page + b"[x](../train.py)\n"), "docs/more.md links to ../train.py", True),
        (lambda folder: (folder / "docs" / "more.md").unlink(), "docs/more.md belongs to a release", True),
        (lambda folder: (folder / "LICENSE").unlink(), "LICENSE belongs to a release", True),
        (edit("CHANGELOG.md", lambda text: text.replace(b"[1.0.0]", b"[1.0.0-a]")), "has no entry", True),
        (lambda folder: (folder / "CHANGELOG.md").unlink(), "CHANGELOG.md has no entry for this version", True),
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
    assert done.stdout.endswith(hub_page((clone / "README.md").read_text("utf-8")))


def test_a_model_of_ones_own(clone, hub, data_file):
    """Its folder is what train.py wrote, with eval.py's results; `tsn.hub.card` begins the card."""
    folder = clone / "out" / "reviews"
    tokenizer = make_tokenizer()
    write_hub_folder(make_model("bert", len(tokenizer)), tokenizer, folder)
    evaluate(folder, data_file)
    subprocess.run([sys.executable, "-m", "tsn.hub.card", str(folder)], cwd=clone, check=True)
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
