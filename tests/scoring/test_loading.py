"""`tsn/loading.py`: what a process of `score.py` or `serve.py` has in memory once it has answered."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT, TEXTS
from tsn import loading
from tsn.loading import chosen_files, load

ANSWER = """
import json, sys
from tsn.loading import load
folder, onnx_file, texts = json.load(sys.stdin)
answers = load(folder, onnx_file, 1, "cpu")(texts)
loaded = [name for name in ("scipy", "sklearn") if name in sys.modules]
import scipy.stats, sklearn.metrics  # whoever wants them later has them
print(json.dumps([loaded, answers]))
"""


@pytest.mark.parametrize("onnx_file, same", [("none", "none"), ("auto", "model_quantized.onnx")])
def test_answers_without_packages_that_it_does_not_need(onnx_folder, onnx_file, same):
    given = json.dumps([str(onnx_folder), onnx_file, TEXTS])
    done = subprocess.run([sys.executable, "-c", ANSWER], input=given, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded, answers = json.loads(done.stdout)
    assert loaded == []
    assert answers == load(str(onnx_folder), same, 1, "cpu")(TEXTS)  # here transformers has imported both


@pytest.mark.parametrize("installed", [True, False])
def test_auto_takes_the_fastest_int8_that_is_there_and_can_run(onnx_folder, tmp_path, monkeypatch, installed):
    monkeypatch.setattr("tsn.loading.find_spec", lambda name: SimpleNamespace(origin="x") if installed else None)
    bare, both = tmp_path / "bare", tmp_path / "both"
    bare.mkdir()
    shutil.copytree(onnx_folder, both)
    (both / "openvino").mkdir()
    (both / "openvino" / "model_quantized.xml").touch()
    onnx = "model_quantized.onnx", None
    assert chosen_files(str(both), "auto", "cpu") == (("none", "model_quantized.xml") if installed else onnx)
    assert chosen_files(str(onnx_folder), "auto", "cpu") == onnx
    assert chosen_files(str(both), "auto", "cpu", engines=("onnx", "openvino")) == onnx  # as serve.py asks
    assert chosen_files(str(bare), "auto", "cpu") == chosen_files(str(both), "auto", "cuda") == ("none", None)
    assert chosen_files(str(both), "model.onnx", "cpu") == ("model.onnx", None)
    assert chosen_files(str(both), "auto", "cpu", "model.xml")[1] == "model.xml"


def test_choosing_a_file_of_a_folder_does_not_import_transformers(onnx_folder):
    """`load` could otherwise no longer keep it from the packages that it does not need."""
    code = "import sys\nfrom tsn.loading import chosen_files\nprint(chosen_files(sys.argv[1], 'auto', 'cpu')[0])\n"
    code += "assert 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, onnx_folder], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "model_quantized.onnx\n"), done.stderr


def test_a_folder_of_a_packages_name_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "no_such_engine").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("no_such_engine") and not loading._installed("no_such_engine")
