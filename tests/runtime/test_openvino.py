"""`openvino_tsn.py`: the same answers as torch, answers that no neighbour changes, and errors that say what to do."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, pipeline

from configuration_tsn import RUNTIME_FILES
from modeling_tsn import TSNModel
from openvino_tsn import OUTPUTS, OpenVinoNetwork, TSNOpenVinoModel, openvino_core
from pipeline_tsn import TSNPipeline
from tests.conftest import ROOT, TEXTS, make_model
from tests.runtime.test_onnx import FORKING, padded
from tests.runtime.test_pipeline import assert_same
from tsn.hub.folder import write_hub_folder

TASK = "topic-sentiment-ner"
FILES = ["model_quantized.xml", "model.xml"]
# The answers in a fresh process, and whether OpenVINO's telemetry was loaded or left a file in the home folder.
FRESH = """
import json, os, sys
from transformers import pipeline
folder, texts = json.load(sys.stdin)
options = {"openvino_file": "model_quantized.xml", "num_threads": 1}
answers = pipeline("topic-sentiment-ner", model=folder, trust_remote_code=True, model_kwargs=options)(texts)
loaded = [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]
print(json.dumps([answers, loaded, sorted(os.listdir(os.path.expanduser("~")))]))
"""
# OpenVINO gives the thread that loads it a stack for signal handlers, which must outlive models that come and go.
SIGNALLED = """
import os, signal, sys
from openvino_tsn import compile_network
models = [compile_network(sys.argv[1], 1, "f32") for _ in range(2)]
del models[0]
del models[0]
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
"""
# Two threads that make the first call. One has kept the other waiting for long, without giving way in Python, when it
# enters OpenVINO: where it gives way there, the other one goes on.
FIRST_CALLS = """
import itertools, operator, sys, threading
from openvino_tsn import compile_network
compile_network(sys.argv[1], 2, "f32")
import openvino
begun = []
def call_at_once():
    while not begun:
        pass
    openvino.Type.i64.to_dtype()
other = threading.Thread(target=call_at_once, daemon=True)
other.start()
late = filter(None, itertools.chain(itertools.repeat(0, 10**7), [openvino.Type.i64]))
print(begun.append(1), *map(operator.methodcaller("to_dtype"), late))
other.join()
"""


def loaded(folder, file, **options):
    options = {"openvino_file": file, "num_threads": 2, **options}
    return pipeline(TASK, model=str(folder), trust_remote_code=True, model_kwargs=options)


@pytest.fixture(scope="module")
def int8(openvino_folder):
    return TSNModel.from_pretrained(openvino_folder, openvino_file="model_quantized.xml", num_threads=1)


def test_fp32_gives_what_torch_gives(openvino_folder):
    torch_model = TSNModel.from_pretrained(openvino_folder).eval()
    model = TSNModel.from_pretrained(openvino_folder, openvino_file="model.xml")
    inputs = padded([9, 4, 1], torch_model.config.vocab_size)
    with torch.inference_mode():
        expected = torch_model(**inputs)
    found, inside = model(**inputs), inputs["attention_mask"].bool()
    for name in OUTPUTS:
        rows = slice(None) if name == "sentiment_logits" else inside
        assert found[name].shape == expected[name].shape
        torch.testing.assert_close(found[name][rows], expected[name][rows], rtol=1e-4, atol=1e-5)


def test_int8_differs_from_fp32_by_little(openvino_folder, int8):
    """On the texts that it was calibrated on."""
    fp32 = TSNModel.from_pretrained(openvino_folder, openvino_file="model.xml")
    tokenizer = AutoTokenizer.from_pretrained(openvino_folder)
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        found, expected = int8(**inputs), fp32(**inputs)
        for name in OUTPUTS:
            difference = (found[name] - expected[name]).abs().mean()
            assert 0 < difference < 0.1 * expected[name].abs().max()


def test_masks_and_types_are_optional(int8):
    inputs = padded([6, 6], int8.config.vocab_size)
    for name in OUTPUTS:
        assert torch.equal(int8(inputs["input_ids"])[name], int8(**inputs)[name])


@pytest.mark.parametrize("file", FILES)
@given(rows=st.lists(st.integers(1, 64), min_size=1, max_size=9))
@settings(max_examples=15)
def test_a_row_is_the_same_to_the_bit_beside_any_others(openvino_folder, file, rows):
    model = _kept(openvino_folder, file)
    inputs = padded(rows, model.config.vocab_size)
    together = model(**inputs)
    for i, length in enumerate(rows):
        alone = model(**{name: values[i : i + 1, :length] for name, values in inputs.items()})
        for name in OUTPUTS:
            row = together[name][i] if name == "sentiment_logits" else together[name][i, :length]
            assert torch.equal(row, alone[name][0])


def _kept(folder, file, models={}):  # noqa: B006  # one model for all examples
    if file not in models:
        models[file] = TSNModel.from_pretrained(folder, openvino_file=file, num_threads=1)
    return models[file]


def test_answers_do_not_depend_on_the_batch(int8, openvino_folder):
    pipe = TSNPipeline(model=int8, tokenizer=AutoTokenizer.from_pretrained(openvino_folder))
    texts = [*TEXTS, "", "Fine.", *TEXTS[::-1], " ".join(TEXTS), *(f"{TEXTS[0]} {'x ' * i}" for i in range(40))]
    singles = [pipe(text) for text in texts]
    for batch_size in (1, 3, 32):
        assert pipe(texts, batch_size=batch_size) == singles  # equal, not nearly


def test_pipeline_loads_it_by_name(openvino_folder):
    expected = pipeline(TASK, model=str(openvino_folder), trust_remote_code=True)(TEXTS)
    pipe = loaded(openvino_folder, "model.xml")
    assert type(pipe.model).__name__ == "TSNOpenVinoModel"
    assert_same(pipe(TEXTS, batch_size=2), expected)
    assert_same([pipe(text) for text in TEXTS], expected)


def options_of(model):
    compiled, _ = model._file.opened
    return {name: str(compiled.get_property(name)) for name in ("INFERENCE_NUM_THREADS", "INFERENCE_PRECISION_HINT")}


def test_it_computes_in_float32_unless_asked(openvino_folder, monkeypatch):
    for dtype in (None, "auto", torch.float32, "float32"):
        model = TSNModel.from_pretrained(openvino_folder, openvino_file="model.xml", dtype=dtype, num_threads=1)
        assert options_of(model)["INFERENCE_PRECISION_HINT"] == "<Type: 'float32'>"
    capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in capabilities:
        with pytest.raises(ValueError, match="does not compute in bfloat16"):
            TSNModel.from_pretrained(openvino_folder, openvino_file="model.xml", dtype="bfloat16")
        return
    pipe = pipeline(
        TASK,
        model=str(openvino_folder),
        trust_remote_code=True,
        dtype=torch.bfloat16,
        model_kwargs={"openvino_file": "model.xml"},
    )
    assert options_of(pipe.model)["INFERENCE_PRECISION_HINT"] == "<Type: 'bfloat16'>"
    assert len(pipe(TEXTS)) == len(TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_it_answers_in_a_forked_process(openvino_folder, tmp_path, file):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FORKING.replace("onnx_file", "openvino_file")],
        input=json.dumps([str(openvino_folder), file, TEXTS * 3]),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr


def test_a_signal_is_handled_after_models_have_come_and_gone(openvino_folder):
    code = [sys.executable, "-c", SIGNALLED, openvino_folder / "openvino" / "model.xml"]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_two_threads_may_make_the_first_call(openvino_folder):
    code = [sys.executable, "-c", FIRST_CALLS, openvino_folder / "openvino" / "model.xml"]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120)
    assert (done.returncode, done.stdout) == (0, "None int64\n"), done.stderr


def test_nothing_is_reported(openvino_folder, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FRESH],
        input=json.dumps([str(openvino_folder), TEXTS]),
        env={**os.environ, "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    answers, telemetry, home = json.loads(done.stdout.splitlines()[-1])
    assert telemetry == [] and "intel" not in home and len(answers) == len(TEXTS)


@pytest.mark.parametrize("file", FILES)
def test_it_can_be_pickled_copied_and_saved(openvino_folder, tmp_path, file):
    pipe = loaded(openvino_folder, file)
    expected = pipe(TEXTS, batch_size=3)
    for same in (pickle.loads(pickle.dumps(pipe)), copy.deepcopy(pipe), copy.copy(pipe)):
        assert same(TEXTS, batch_size=3) == expected
        assert options_of(same.model) == options_of(pipe.model)
    pipe.save_pretrained(tmp_path / "saved")
    assert set(RUNTIME_FILES) < {path.name for path in (tmp_path / "saved").iterdir()}
    for name in (file, file.replace(".xml", ".bin")):
        copied = tmp_path / "saved" / "openvino" / name
        assert copied.read_bytes() == (openvino_folder / "openvino" / name).read_bytes()
    assert loaded(tmp_path / "saved", file)(TEXTS, batch_size=3) == expected


def test_its_fingerprint_says_which_model_it_is(openvino_folder, tmp_path):
    folder = shutil.copytree(openvino_folder, tmp_path / "hub")
    pipe = loaded(folder, "model.xml")
    fingerprint = Hasher.hash(pipe)
    pipe(TEXTS)
    assert Hasher.hash(pipe) == Hasher.hash(loaded(folder, "model.xml")) == fingerprint
    assert Hasher.hash(loaded(folder, "model_quantized.xml")) != fingerprint
    weights = folder / "openvino" / "model.bin"
    os.utime(weights, (1, 1))  # written again
    assert Hasher.hash(loaded(folder, "model.xml")) != fingerprint


def test_calls_from_several_threads(int8):
    from concurrent.futures import ThreadPoolExecutor

    inputs = [padded([length], int8.config.vocab_size) for length in range(1, 13)]
    expected = [int8(**one).ner_logits for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(lambda one: int8(**one).ner_logits, inputs * 3), expected * 3):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"openvino_file": "other.xml"},
            OSError,
            "openvino/other.xml of .* could not be loaded .* quantize.py writes",
        ),
        ({"openvino_file": "../model.xml"}, ValueError, "openvino_file must be the name of a .xml file"),
        ({"openvino_file": "/etc/passwd"}, ValueError, "openvino_file must be the name of a .xml file"),
        ({"openvino_file": "model.bin"}, ValueError, "openvino_file must be the name of a .xml file"),
        ({"openvino_file": None}, ValueError, "openvino_file must be the name of a .xml file"),
        ({"openvino_file": "model.xml", "num_threads": 0}, ValueError, "num_threads must be a whole number >= 1"),
        ({"openvino_file": "model.xml", "dtype": torch.float16}, ValueError, "float32 or bfloat16, not torch.float16"),
        (
            {"openvino_file": FILES[0], "dtype": "bfloat16"},
            ValueError,
            "the rest in float32|does not compute",
        ),
        ({"openvino_file": "model.xml", "onnx_file": "model.onnx"}, ValueError, "exclude each other"),
    ],
)
def test_what_cannot_be_loaded(openvino_folder, options, error, message):
    with pytest.raises(error, match=message):
        TSNModel.from_pretrained(openvino_folder, **options)


def test_damaged_files(openvino_folder, tmp_path):
    shutil.copytree(openvino_folder, tmp_path / "hub")
    graph, weights = (tmp_path / "hub" / "openvino" / name for name in ("model.xml", "model.bin"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(OSError, match="model.xml could not be loaded as an OpenVINO model"):
        TSNModel.from_pretrained(tmp_path / "hub", openvino_file="model.xml")
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(OSError, match="model.xml could not be loaded as an OpenVINO model"):
        TSNModel.from_pretrained(tmp_path / "hub", openvino_file="model.xml")
    weights.unlink()
    with pytest.raises(OSError, match="openvino/model.bin of .* could not be loaded"):
        TSNModel.from_pretrained(tmp_path / "hub", openvino_file="model.xml")


def test_without_openvino(openvino_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match="openvino_file needs OpenVINO: pip install openvino"):
        TSNModel.from_pretrained(openvino_folder, openvino_file="model.xml")


def test_graphs_of_other_models(openvino_folder, tmp_path):
    network = OpenVinoNetwork(str(openvino_folder / "openvino" / "model.xml"), 1, "f32")
    config = copy.deepcopy(TSNModel.from_pretrained(openvino_folder).config)
    assert TSNOpenVinoModel(network, config)
    config.ner_labels = ["O", "PER"]
    with pytest.raises(ValueError, match="ner_logits of the OpenVINO graph has 17 labels, the configuration 2"):
        TSNOpenVinoModel(network, config)


@pytest.mark.parametrize("positions", [36, 50])
def test_no_row_is_padded_beyond_the_positions(positions, tmp_path, tokenizer):
    from tsn.quantization.with_openvino import OpenVinoBackend

    model = make_model("bert", len(tokenizer), positions)
    (tmp_path / "openvino").mkdir()
    graph = OpenVinoBackend(model, tmp_path / "openvino", []).load("model.xml")
    inputs = padded([positions, 3], len(tokenizer))
    with torch.inference_mode():
        expected = model(**inputs)
    torch.testing.assert_close(graph(**inputs).sentiment_logits, expected.sentiment_logits, rtol=1e-4, atol=1e-5)


def test_a_model_without_token_types(tmp_path, tokenizer):
    from tsn.quantization.with_openvino import OpenVinoBackend

    model = make_model("distilbert", len(tokenizer))
    write_hub_folder(model, tokenizer, tmp_path)
    (tmp_path / "openvino").mkdir()
    backend = OpenVinoBackend(model, tmp_path / "openvino", [])
    assert backend.export_difference < 1e-4 and backend.load("model.xml").input_names == [
        "input_ids",
        "attention_mask",
    ]
