"""`tsn/loading.py`: what a process of `score.py` or `serve.py` has in memory once it has answered."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, TEXTS
from tsn.loading import load

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
