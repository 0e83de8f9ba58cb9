"""What would stop `eval.py` at its end is found out before it reads the first text, or does not stop it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

import eval as evaluation
from modeling_tsn import TSNModel
from tests.conftest import ROOT
from tsn.evaluation import run
from tsn.evaluation.checks import check_writable
from tsn.evaluation.run import weights_sha256


@pytest.fixture
def no_text_is_read(monkeypatch):
    def refuse(*_):
        raise AssertionError("found out too late")

    monkeypatch.setattr(run, "run_pipeline", refuse)


def make_file(path):
    path.write_text("mine")
    return path


@pytest.mark.parametrize(
    "make, option",
    [
        (make_file, "--output_dir"),  # a file
        (lambda path: make_file(path) / "below", "--output_dir"),
        (lambda path: (path / "eval_results.json").mkdir(parents=True) or path, "--output_dir"),
        (lambda path: (path / "eval_results.md").mkdir(parents=True) or path, "--output_dir"),
        (make_file, "--plots"),
        (lambda path: (path / "reliability.png").mkdir(parents=True) or path, "--plots"),
    ],
)
def test_a_place_that_cannot_be_written(tmp_path, hub_folder, data_file, no_text_is_read, make, option):
    arguments = [str(hub_folder), str(data_file), "--output_dir", str(tmp_path / "free")]
    with pytest.raises(SystemExit, match=f"eval.py: .*{tmp_path.name}/place.* cannot be written: ."):
        evaluation.main([*arguments, option, str(make(tmp_path / "place"))])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path, hub_folder, data_file, no_text_is_read):
    tmp_path.chmod(0o500)
    with pytest.raises(SystemExit, match="cannot be written: Permission denied"):
        evaluation.main([str(hub_folder), str(data_file), "--output_dir", str(tmp_path)])


def test_looking_changes_nothing_in_the_folder(tmp_path):
    make_file(tmp_path / "eval_results.json")
    check_writable(tmp_path, ["eval_results.json", "eval_results.md"])
    assert [path.name for path in tmp_path.iterdir()] == ["eval_results.json"]
    assert (tmp_path / "eval_results.json").read_text() == "mine"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:x", "-1"])
def test_a_device_that_is_not_there(tmp_path, hub_folder, data_file, no_text_is_read, device):
    with pytest.raises(SystemExit, match=f"eval.py: --device {device} cannot be used: .") as error:
        evaluation.main([str(hub_folder), str(data_file), "--output_dir", str(tmp_path), f"--device={device}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", ["0", "-3", "1.5", "many"])
def test_a_batch_size_that_is_none(hub_folder, data_file, capsys, size):
    with pytest.raises(SystemExit) as error:
        evaluation.main([str(hub_folder), str(data_file), f"--batch_size={size}"])
    assert error.value.code == 2 and "--batch_size" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "error, message", [(MemoryError(), "--batch_size below 7"), (RuntimeError("CUDA out of memory."), "--batch_size")]
)
def test_memory_that_runs_out(tmp_path, hub_folder, data_file, monkeypatch, error, message):
    def run_out(*_):
        raise error

    monkeypatch.setattr(run, "run_pipeline", run_out)
    with pytest.raises(SystemExit, match=message):
        evaluation.main([str(hub_folder), str(data_file), "--output_dir", str(tmp_path), "--batch_size", "7"])


@pytest.fixture(scope="module")
def sharded(hub_folder, tmp_path_factory):
    """The same model in several files."""
    folder = tmp_path_factory.mktemp("sharded") / "hub"
    shutil.copytree(hub_folder, folder)
    (folder / "model.safetensors").unlink()
    TSNModel.from_pretrained(hub_folder).save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2 and not (folder / "model.safetensors").exists()
    return folder


def test_a_sharded_checkpoint_is_evaluated_like_a_whole_one(tmp_path, hub_folder, sharded, data_file):
    records = []
    for name, folder in (("whole", hub_folder), ("sharded", sharded)):
        evaluation.main([str(folder), str(data_file), "--output_dir", str(tmp_path / name)])
        records.append(json.loads((tmp_path / name / "eval_results.json").read_text()))
    for group, figures in records[0]["results"].items():
        assert records[1]["results"][group] == pytest.approx(figures, abs=1e-4)
    shards = b"".join(path.read_bytes() for path in sorted(sharded.glob("model-*.safetensors")))
    assert records[1]["weights_sha256"] == hashlib.sha256(shards).hexdigest()


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": {"a": "../model.safetensors"}}', '{"weight_map": 3}'])
def test_a_damaged_index_of_shards(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match="index"):
        weights_sha256(str(tmp_path))


def test_without_weights_the_error_names_them(tmp_path):
    with pytest.raises(OSError, match="model.safetensors"):
        weights_sha256(str(tmp_path))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf_8(tmp_path, hub_folder, encoding):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"text": "Fine.", "sentiment": "positive", "source": "отзывы"}) + "\n", "utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / "eval.py", hub_folder, path, "--output_dir", tmp_path],
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        encoding=encoding,
    )
    assert done.returncode == 0, done.stderr
    assert "\\u043e\\u0442" in done.stdout, "what cannot be shown is escaped"
    assert "отзывы" in (tmp_path / "eval_results.md").read_text("utf-8")
