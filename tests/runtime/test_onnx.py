"""`onnx_tsn.py`: the same answers as torch, int8 answers that no neighbour changes, and errors that say what to do."""

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, pipeline

from modeling_tsn import TSNModel
from onnx_tsn import OUTPUTS, TSNOnnxModel
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS
from tests.runtime.test_chunking import nasty_texts
from tests.runtime.test_pipeline import assert_same

TASK = "topic-sentiment-ner"


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


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"onnx_file": "other.onnx"}, OSError, "onnx/other.onnx cannot be had .* quantize.py makes ONNX files"),
        ({"onnx_file": "../model.onnx"}, ValueError, "must be the name of a .onnx file"),
        ({"onnx_file": "/etc/passwd"}, ValueError, "must be the name of a .onnx file"),
        ({"onnx_file": "model.bin"}, ValueError, "must be the name of a .onnx file"),
        ({"onnx_file": None}, ValueError, "must be the name of a .onnx file"),
        ({"onnx_file": "model.onnx", "num_threads": 0}, ValueError, "num_threads must be a whole number >= 1"),
        ({"onnx_file": "model.onnx", "num_threads": "2"}, ValueError, "num_threads must be a whole number >= 1"),
        ({"onnx_file": "model.onnx", "providers": ["Abacus"]}, ValueError, "no execution provider 'Abacus' here"),
    ],
)
def test_what_cannot_be_loaded(onnx_folder, options, error, message):
    with pytest.raises(error, match=message):
        TSNModel.from_pretrained(onnx_folder, **options)


def test_a_damaged_file(onnx_folder, tmp_path):
    shutil.copytree(onnx_folder, tmp_path / "hub")
    file = tmp_path / "hub" / "onnx" / "model.onnx"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OSError, match="model.onnx cannot be loaded as an ONNX model"):
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
