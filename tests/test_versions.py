"""A model that is trained and quantized on either version of transformers answers the same on the other.

In processes of their own. `make test-latest` runs these tests, where `.venv` is set up as well.
"""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest
import transformers

from tests.conftest import ROOT, TEXTS
from tests.runtime.test_pipeline import assert_same

PYTHONS = {"4": ROOT / ".venv/bin/python", "5": ROOT / ".venv-latest/bin/python"}
READ = """
import json, sys, transformers
from transformers import pipeline
folder, texts = json.load(sys.stdin)
files = {"weights": {}, "fp32": {"onnx_file": "model.onnx"}, "int8": {"onnx_file": "model_quantized.onnx"}}
load = lambda options: pipeline("topic-sentiment-ner", model=folder, trust_remote_code=True, model_kwargs=options)
answers = {name: load(options)(texts) for name, options in files.items()}
print(json.dumps([transformers.__version__, answers]))
"""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(transformers.__version__[0] == "4", reason="make test-latest runs it, once is enough"),
    pytest.mark.skipif(not all(path.exists() for path in PYTHONS.values()), reason="needs .venv and .venv-latest"),
]


def run(version, *arguments, **options):
    """The last line that a process under a version prints; the tests fail where it does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [PYTHONS[version], *map(str, arguments)], env=environment, capture_output=True, encoding="utf-8", **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1] if done.stdout else ""


@pytest.fixture(scope="module", params=PYTHONS)
def made(request, hub_folder, data_file, tmp_path_factory):
    """A model's folder, trained and quantized under one version, and what it answers there and under the other."""
    here, there = request.param, next(version for version in PYTHONS if version != request.param)
    folder = tmp_path_factory.mktemp("made")
    data = ["--train_file", data_file, "--output_dir", folder]
    options = ["--max_steps", 2, "--learning_rate", "1e-3", "--use_cpu", "--disable_tqdm", "true"]
    run(here, "train.py", "--backbone", hub_folder, *data, *options, cwd=ROOT)
    run(here, "quantize.py", folder, "--output_dir", folder, cwd=ROOT)
    given = json.dumps([str(folder), TEXTS])
    answers = {}
    for version in (here, there):
        found, answers[version] = json.loads(run(version, "-c", READ, input=given, cwd=folder))
        assert found.partition(".")[0] == version
    report = json.loads((folder / "onnx" / "quantization_report.json").read_text("utf-8"))
    return SimpleNamespace(here=answers[here], there=answers[there], by=here, report=report)


def test_the_weights_answer_the_same(made):
    assert_same(made.there["weights"], made.here["weights"])


@pytest.mark.parametrize("file", ["fp32", "int8"])
def test_onnx_files_answer_the_same_to_the_bit(made, file):
    assert made.there[file] == made.here[file]
    assert made.here["int8"] != made.here["fp32"]


def test_the_report_names_the_way(made):
    assert made.report["way"].startswith("optimum " if made.by == "4" else "torch ")
