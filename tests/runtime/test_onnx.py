"""`onnx_tsn.py`: the same answers as torch, int8 answers that no neighbour changes, and errors that say what to do."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys

import datasets
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, pipeline

from configuration_tsn import RUNTIME_FILES
from modeling_tsn import TSNModel
from onnx_tsn import BATCH_TOKENS, OUTPUTS, TSNOnnxModel
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS
from tests.runtime.test_chunking import nasty_texts
from tests.runtime.test_pipeline import assert_same

TASK = "topic-sentiment-ner"
FILES = ["model_quantized.onnx", "model.onnx"]
# What gunicorn --preload does: load and use it, fork, use it in the child, leave by sys.exit. Each with two threads.
FORKING = """
import json, os, sys, time
import torch
from transformers import pipeline
folder, file, texts = json.load(sys.stdin)
torch.set_num_threads(2)
if file == "torch":  # a sum over so much is shared among threads
    torch.ones(2**22).sum()
options = {} if file == "torch" else {"model_kwargs": {"onnx_file": file, "num_threads": 2}}
pipe = pipeline("topic-sentiment-ner", model=folder, trust_remote_code=True, **options)
expected = pipe(texts, batch_size=4)
for used in (True, False):
    child = os.fork()
    if not child:
        if file == "torch":
            torch.ones(2**22).sum()
        sys.exit(0 if not used or pipe(texts, batch_size=4) == expected else 3)
    end = time.monotonic() + 120
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.05)
    if status[0] == 0:
        os.kill(child, 9)
        sys.exit(f"a forked process that {'used' if used else 'did not use'} the pipeline hangs")
    assert os.waitstatus_to_exitcode(status[1]) == 0, status
assert pipe(texts, batch_size=4) == expected  # the parent's own goes on
"""


@pytest.fixture(scope="module")
def int8(onnx_folder):
    return TSNModel.from_pretrained(onnx_folder, onnx_file="model_quantized.onnx", num_threads=2)


@pytest.fixture(scope="module")
def int8_pipe(int8, onnx_folder):
    return TSNPipeline(model=int8, tokenizer=AutoTokenizer.from_pretrained(onnx_folder))


def padded(rows, vocabulary):
    """Model inputs of rows of the given lengths, padded on the right."""
    generator = torch.Generator().manual_seed(len(rows))
    mask = (torch.arange(max(rows)) < torch.tensor(rows)[:, None]).long()  # (batch, tokens)
    ids = torch.randint(1, vocabulary, mask.shape, generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def test_fp32_gives_what_torch_gives(onnx_folder):
    torch_model = TSNModel.from_pretrained(onnx_folder).eval()
    model = TSNModel.from_pretrained(onnx_folder, onnx_file="model.onnx")
    assert not model.quantized
    inputs = padded([9, 4, 1], torch_model.config.vocab_size)
    with torch.inference_mode():
        expected = torch_model(**inputs)
    found = model(**inputs)
    inside = inputs["attention_mask"].bool()
    for name in OUTPUTS:
        rows = slice(None) if name == "sentiment_logits" else inside
        torch.testing.assert_close(found[name][rows], expected[name][rows], rtol=1e-4, atol=1e-5)
    assert found.topic_logits is found["topic_logits"]


class Watched:
    """A session that notes the `(batch, tokens)` that it runs."""

    def __init__(self, session):
        self._session, self.shapes = session, []

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run(self, names, feed):
        self.shapes.append(feed["input_ids"].shape)
        return self._session.run(names, feed)


def watched(model, monkeypatch):
    session = Watched(model.session)
    monkeypatch.setattr(type(model), "session", session)
    return session.shapes


def test_fp32_runs_small_batches_side_by_side(onnx_folder, monkeypatch):
    model = TSNModel.from_pretrained(onnx_folder, onnx_file="model.onnx", num_threads=2)
    shapes = watched(model, monkeypatch)
    lengths = [20] * 40 + [19, 16, 15, 3]
    inputs = padded(lengths, model.config.vocab_size)
    together = model(**inputs)
    assert sum(rows for rows, _ in shapes) == len(lengths) and len(shapes) > 3
    assert all(rows * tokens <= BATCH_TOKENS for rows, tokens in shapes)
    assert (1, 3) in shapes  # not padded to many times its length
    for i, length in enumerate(lengths):
        alone = model(**{name: values[i : i + 1, :length] for name, values in inputs.items()})
        for name in OUTPUTS:
            row = together[name][i] if name == "sentiment_logits" else together[name][i, :length]
            torch.testing.assert_close(row, alone[name][0], rtol=1e-4, atol=1e-5)
    shapes.clear()
    model(**padded([9, 9, 9, 8], model.config.vocab_size))
    assert sorted(shapes) == [(2, 9), (2, 9)]  # no thread is left without


def test_batches_stay_whole_on_other_processors(onnx_folder, monkeypatch):
    providers = ["AzureExecutionProvider", "CPUExecutionProvider"]  # a second one that the package for CPUs has
    options = {"onnx_file": "model.onnx", "providers": providers, "num_threads": 2}
    pipe = pipeline(TASK, model=str(onnx_folder), trust_remote_code=True, model_kwargs=options)
    assert pipe.model.session.get_session_options().intra_op_num_threads == 2
    shapes = watched(pipe.model, monkeypatch)
    pipe(["One two three."] * 8, batch_size=4)
    assert [rows for rows, _ in shapes] == [4, 4]
    int8 = TSNModel.from_pretrained(onnx_folder, **{**options, "onnx_file": "model_quantized.onnx"})
    assert int8.session.get_session_options().intra_op_num_threads == 1  # its rows run side by side all the same


@pytest.mark.parametrize("file", FILES)
def test_a_session_is_opened_once(onnx_folder, monkeypatch, file):
    opened, session = [], onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *args, **options: opened.append(args) or session(*args, **options)
    )
    model = TSNModel.from_pretrained(onnx_folder, onnx_file=file, num_threads=2)
    model(**padded([3, 2], model.config.vocab_size))
    assert model.quantized == (file == "model_quantized.onnx")
    assert [options.intra_op_num_threads for _, options in opened] == [1]  # batches run side by side


def test_masks_and_types_are_optional(int8):
    inputs = padded([6, 6], int8.config.vocab_size)
    for name in OUTPUTS:
        assert torch.equal(int8(inputs["input_ids"])[name], int8(**inputs)[name])


@given(rows=st.lists(st.integers(1, 20), min_size=1, max_size=9))
@settings(max_examples=30)
def test_an_int8_row_is_the_same_to_the_bit_beside_any_others(int8, rows):
    inputs = padded(rows, int8.config.vocab_size)
    together = int8(**inputs)
    for i, length in enumerate(rows):
        alone = int8(**{name: values[i : i + 1, :length] for name, values in inputs.items()})
        for name in OUTPUTS:
            row = together[name][i] if name == "sentiment_logits" else together[name][i, :length]
            assert torch.equal(row, alone[name][0])
    assert not together["topic_logits"][~inputs["attention_mask"].bool()].any()  # nothing is made up for padding


@given(texts=st.lists(st.one_of(nasty_texts, st.sampled_from(TEXTS)), max_size=6))
@settings(max_examples=25)
def test_int8_answers_do_not_depend_on_the_batch(int8_pipe, texts):
    singles = [int8_pipe(text) for text in texts]
    for batch_size in (1, 3, 32):
        assert int8_pipe(texts, batch_size=batch_size) == singles  # equal, not nearly
    assert int8_pipe(texts[::-1], batch_size=4) == singles[::-1]


def test_pipeline_loads_it_by_name(onnx_folder):
    expected = pipeline(TASK, model=str(onnx_folder), trust_remote_code=True)(TEXTS)
    options = {"onnx_file": "model.onnx", "num_threads": 1, "providers": ["CPUExecutionProvider"]}
    pipe = pipeline(TASK, model=str(onnx_folder), trust_remote_code=True, model_kwargs=options)
    assert type(pipe.model).__name__ == "TSNOnnxModel"
    assert_same(pipe(TEXTS, batch_size=2), expected)
    assert_same([pipe(text) for text in TEXTS], expected)


@pytest.mark.slow
@pytest.mark.parametrize("file", [*FILES, "torch"])
def test_it_answers_in_a_forked_process(onnx_folder, tmp_path, file):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        input=json.dumps([str(onnx_folder), file, TEXTS * 3]),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr


def loaded(folder, file):
    options = {"onnx_file": file, "num_threads": 2}
    return pipeline(TASK, model=str(folder), trust_remote_code=True, model_kwargs=options)


@pytest.mark.parametrize("file", FILES)
def test_it_can_be_pickled_and_copied(onnx_folder, file):
    pipe = loaded(onnx_folder, file)
    expected = pipe(TEXTS, batch_size=3)
    for same in (pickle.loads(pickle.dumps(pipe)), copy.deepcopy(pipe), copy.copy(pipe)):
        assert same(TEXTS, batch_size=3) == expected
        assert same.model.config.ner_labels == pipe.model.config.ner_labels
        assert same.model.session.get_session_options().intra_op_num_threads == 1
    model = copy.deepcopy(pipe.model)  # before it is used
    assert torch.equal(model(torch.tensor([[2, 3]])).ner_logits, pipe.model(torch.tensor([[2, 3]])).ner_logits)
    session = onnxruntime.InferenceSession(onnx_folder / "onnx" / file, providers=["CPUExecutionProvider"])
    theirs = pickle.loads(pickle.dumps(TSNOnnxModel(session, pipe.model.config, 2)))  # one opened by someone else
    assert torch.equal(theirs(torch.tensor([[2, 3]])).ner_logits, model(torch.tensor([[2, 3]])).ner_logits)


@pytest.mark.parametrize("processes", [None, 2])
def test_map_of_a_data_set(onnx_folder, processes):
    pipe = loaded(onnx_folder, "model_quantized.onnx")
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    labels = [answer["sentiment"]["label"] for answer in pipe(TEXTS)]

    def label(batch):
        return {"label": [answer["sentiment"]["label"] for answer in pipe(batch["text"], batch_size=2)]}

    assert list(rows.map(label, batched=True, batch_size=2, num_proc=processes)["label"]) == labels


def test_its_fingerprint_says_which_model_it_is(onnx_folder, tmp_path):
    """By which `datasets.map` finds cached results: the same after use, and another for another file."""
    folder = shutil.copytree(onnx_folder, tmp_path / "hub")
    pipe = loaded(folder, "model_quantized.onnx")
    fingerprint = Hasher.hash(pipe)
    pipe(TEXTS)
    assert Hasher.hash(pipe) == Hasher.hash(loaded(folder, "model_quantized.onnx")) == fingerprint
    assert Hasher.hash(loaded(folder, "model.onnx")) != fingerprint
    shutil.copyfile(folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx")
    assert Hasher.hash(loaded(folder, "model_quantized.onnx")) != fingerprint


@pytest.mark.parametrize("file", FILES)
def test_it_is_saved_with_its_code(onnx_folder, tmp_path, file):
    pipe = loaded(onnx_folder, file)
    expected = pipe(TEXTS)
    pipe.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "onnx" / file).read_bytes() == (onnx_folder / "onnx" / file).read_bytes()
    assert set(RUNTIME_FILES) < {path.name for path in (tmp_path / "saved").iterdir()}
    assert loaded(tmp_path / "saved", file)(TEXTS) == expected
    before = (tmp_path / "saved" / "onnx" / file).read_bytes()
    again = loaded(tmp_path / "saved", file)
    again.save_pretrained(tmp_path / "saved")  # onto itself
    assert (tmp_path / "saved" / "onnx" / file).read_bytes() == before
    content = TSNOnnxModel(onnxruntime.InferenceSession(before, providers=["CPUExecutionProvider"]), pipe.model.config)
    content.save_pretrained(tmp_path / "content")
    assert (tmp_path / "content" / "onnx" / "model.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"onnx_file": "other.onnx"},
            OSError,
            "other.onnx of .* could not be loaded .* quantize.py writes such files",
        ),
        ({"onnx_file": "../model.onnx"}, ValueError, "must be the name of a .onnx file"),
        ({"onnx_file": "/etc/passwd"}, ValueError, "must be the name of a .onnx file"),
        ({"onnx_file": "model.bin"}, ValueError, "must be the name of a .onnx file"),
        ({"onnx_file": None}, ValueError, "must be the name of a .onnx file"),
        ({"onnx_file": "model.onnx", "num_threads": 0}, ValueError, "num_threads must be a whole number >= 1"),
        ({"onnx_file": "model.onnx", "num_threads": "2"}, ValueError, "num_threads must be a whole number >= 1"),
        (
            {"onnx_file": "model.onnx", "providers": ["Abacus"]},
            ValueError,
            "provider 'Abacus' is not available",
        ),
    ],
)
def test_what_cannot_be_loaded(onnx_folder, options, error, message):
    with pytest.raises(error, match=message):
        TSNModel.from_pretrained(onnx_folder, **options)


def test_a_damaged_file(onnx_folder, tmp_path):
    shutil.copytree(onnx_folder, tmp_path / "hub")
    file = tmp_path / "hub" / "onnx" / "model.onnx"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OSError, match="model.onnx could not be loaded as an ONNX model"):
        TSNModel.from_pretrained(tmp_path / "hub", onnx_file="model.onnx")


def graph(inputs, outputs):
    """A session of a graph that sums its inputs into outputs of the given widths."""
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Sum", list(inputs), ["x"])]
    nodes += [onnx.helper.make_node("Expand", ["x", f"shape_{name}"], [name]) for name in outputs]
    made = onnx.helper.make_graph(
        nodes,
        "graph",
        [value(name, onnx.TensorProto.FLOAT, ["batch", 1]) for name in inputs],
        [value(name, onnx.TensorProto.FLOAT, ["batch", width]) for name, width in outputs.items()],
        [onnx.numpy_helper.from_array(np.array([1, width]), f"shape_{name}") for name, width in outputs.items()],
    )
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_graphs_of_other_models(onnx_folder):
    config = TSNModel.from_pretrained(onnx_folder).config
    right = {"topic_logits": 5, "ner_logits": 17, "sentiment_logits": 3, "topic_sentiment_logits": 3}
    assert TSNOnnxModel(graph(["input_ids", "attention_mask"], right), config)
    for inputs, outputs, message in (
        (["pixel_values"], right, "reads pixel_values: it is not that of a TSN model"),
        (["input_ids"], {"logits": 3}, "gives logits, not topic_logits, ner_logits, sentiment_logits"),
        (["input_ids"], {**right, "topic_sentiment_logits": 2}, "has 2 labels, the configuration 3"),
        (["input_ids"], {**right, "ner_logits": 9}, "ner_logits of the ONNX graph has 9 labels, the configuration 17"),
    ):
        with pytest.raises(ValueError, match=message):
            TSNOnnxModel(graph(inputs, outputs), config)
