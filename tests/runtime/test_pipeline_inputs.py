"""What `TSNPipeline` takes and holds: data frames and tables, texts that look empty, models set later, thresholds."""

import copy
import itertools
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset
from transformers import AutoTokenizer
from transformers.pipelines.pt_utils import KeyDataset

from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, make_model
from tests.runtime.test_chunking import SEEN, UNSEEN
from tests.runtime.test_pipeline import MANY, SENTIMENTS, assert_same


@pytest.fixture(scope="module")
def byte_pipe(byte_tokenizer):
    return TSNPipeline(make_model("distilbert", len(byte_tokenizer)), byte_tokenizer)


@pytest.fixture(scope="module")
def singles(pipe):
    """The result of each of MANY, asked for alone."""
    return [pipe(text) for text in MANY]


# Data sets, frames and tables


def test_torch_data_set_ends_at_its_length(pipe):
    """transformers' own documentation passes such a data set, which raises no IndexError at its end."""

    class Repeated(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return TEXTS[0]

    results = list(itertools.islice(pipe(Repeated()), 10))
    assert_same(results, [pipe(TEXTS[0])] * 3)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_hub_data_set_column(pipe, singles, batch_size):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"body": MANY})
    assert_same(pipe(data["body"], batch_size=batch_size), singles)
    assert_same(list(pipe(KeyDataset(data, "body"), batch_size=batch_size)), singles)


class Frame:
    """As polars and PySpark have it: named columns, and iteration, if any, over the columns."""

    def __init__(self, **columns):
        self.held = columns

    @property
    def columns(self):
        return list(self.held)

    def __iter__(self):
        return iter(self.held.values())

    def __getitem__(self, name):
        return self.held[name]


class LazyFrame:
    columns = ["stars", "review"]


def data_set(**columns):
    return pytest.importorskip("datasets").Dataset.from_dict(columns)


TABLES = {
    "DataFrame": (lambda: pd.DataFrame({"text": TEXTS, "stars": 1}), 'df["text"]; it has text, stars'),
    "DataFrame of one column": (lambda: pd.DataFrame({"text": TEXTS})[["text"]], 'df["text"]; it has text'),
    "empty DataFrame": (lambda: pd.DataFrame({"text": []}), 'df["text"]; it has text'),
    "DataFrame without names": (lambda: pd.DataFrame([TEXTS]), 'df["0"]; it has 0, 1, 2, 3, 4'),
    "polars' manner": (lambda: Frame(review=TEXTS, stars=[1] * 5), "frame"),
    "LazyFrame": (LazyFrame, 'df["stars"]; it has stars, review'),
    "Table": (lambda: pa.table({"id": [1], "text": ["a"]}), 'table["text"]; it has id, text'),
    "RecordBatch": (lambda: pa.record_batch({"text": ["a"]}), 'recordbatch["text"]'),
    "Dataset": (lambda: data_set(text=TEXTS), 'dataset["text"]; it has text'),
    "stream": (lambda: data_set(text=TEXTS).to_iterable_dataset(), 'dataset["text"]; it has text'),
    "DatasetDict": (
        lambda: pytest.importorskip("datasets").DatasetDict(train=data_set(text=TEXTS)),
        'dataset["train"]',
    ),
    "dict": (lambda: {"text": TEXTS}, 'dict["text"]; it has text'),
    "empty dict": (dict, 'dict["text"]'),
    "structured array": (
        lambda: np.array([("a", 1)], dtype=[("text", "U9"), ("n", int)]),
        'ndarray["text"]; it has text, n',
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_whole_table_is_an_error_that_says_what_to_pass(pipe, kind):
    make, hint = TABLES[kind]
    inputs = make()
    hint = 'df["review"]; it has review, stars' if hint == "frame" else hint
    message = f"TSN analyses a string or several, not {type(inputs).__name__}: pass its texts alone, such as {hint}"
    for how in ({}, {"batch_size": 4}, {"num_workers": 1}):
        with pytest.raises(TypeError, match=re.escape(message)):
            pipe(inputs, **how)


@pytest.mark.parametrize(
    "inputs",
    [
        [{"text": "a"}],
        ({"text": t} for t in TEXTS),
        KeyDataset([{"row": {"text": "a"}}], "row"),
        [pd.DataFrame({"text": ["a"]})],
        np.array([("a", 1)], dtype=[("text", "U9"), ("n", int)]).tolist(),
        pd.DataFrame({"text": ["a"]}).to_numpy(),
    ],
    ids=["dicts", "generator of dicts", "data set of dicts", "frames", "tuples", "rows of an array"],
)
def test_rows_instead_of_texts_are_named(pipe, inputs):
    with pytest.raises(
        TypeError, match=r'TSN analyses strings; input 0 is (dict|DataFrame): pass .*\["text"\]|0 is \w+: '
    ):
        list(pipe(inputs))


COLUMNS = {
    "Series": lambda: pd.Series(MANY),
    "Series of Arrow strings": lambda: pd.Series(MANY, dtype="string[pyarrow]"),
    "Series with other row names": lambda: pd.Series(MANY, index=["columns", "column_names", *range(len(MANY) - 2)]),
    "Index": lambda: pd.Index(MANY),
    "column of a DataFrame": lambda: pd.DataFrame({"text": MANY, "n": 1})["text"],
    "column of polars' manner": lambda: Frame(text=MANY)["text"],
    "Arrow column": lambda: pa.table({"text": MANY})["text"],
    "Arrow array": lambda: pa.array(MANY, pa.large_string()),
    "Arrow dictionary": lambda: pa.array(MANY).dictionary_encode(),
    "values of a dict": lambda: dict(enumerate(MANY)).values(),
    "data set column": lambda: data_set(text=MANY)["text"],
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_one_column_gives_a_list(pipe, singles, kind):
    found = pipe(COLUMNS[kind](), batch_size=4)
    assert isinstance(found, list)
    assert_same(found, singles)


def test_a_missing_value_of_a_column_is_named(pipe):
    for column in (pd.Series(["a", None]), pd.Series(["a", None], dtype="string[pyarrow]"), pa.array(["a", None])):
        with pytest.raises(TypeError, match="input 1 is (float|NoneType|NAType)"):
            pipe(column)


# Texts that look empty

NOTHING = {"label": None, "score": 0.0, "scores": dict.fromkeys(SENTIMENTS, 0.0)}


@pytest.mark.parametrize("unseen", UNSEEN)
def test_a_text_that_looks_empty_has_no_sentiment(pipe, byte_pipe, unseen):
    texts = [unseen, f" {unseen}\n", unseen * 3, f"{unseen} " * 120]
    for one in (pipe, byte_pipe):
        for result in one(texts, batch_size=2, return_chunks=True):
            assert result == {"topics": [], "sentiment": NOTHING, "entities": [], "chunks": []}


@pytest.mark.parametrize("seen", SEEN)
def test_punctuation_and_emoji_alone_are_texts(byte_pipe, seen):
    assert byte_pipe(seen)["sentiment"]["label"] in SENTIMENTS


@given(st.lists(st.sampled_from([*UNSEEN, *TEXTS[0].split(), *SEEN]), max_size=12).map(" ".join))
def test_spans_show_something(byte_pipe, text):
    for span in (result := byte_pipe(text))["topics"] + result["entities"]:
        assert text[span["start"] : span["end"]] == span["word"]
        assert not span["word"].startswith(tuple(UNSEEN)) or span["word"].strip("".join(UNSEEN))
        assert span["word"][0] not in UNSEEN


# A model set later


def other_model(tokenizer, **config):
    model = make_model("bert", len(tokenizer), **config)
    with torch.no_grad():
        for head in (model.topic_head, model.ner_head, model.sentiment_head):
            head.weight.mul_(-1)
    return model


def test_the_model_that_the_pipeline_holds_runs(tokenizer):
    first, other = make_model("bert", len(tokenizer)), other_model(tokenizer)
    one, expected = TSNPipeline(first, tokenizer), TSNPipeline(other, tokenizer)(TEXTS)
    before = one(TEXTS)
    one.model = other
    assert one(TEXTS) == expected != before
    one.model = first
    assert one(TEXTS) == before


def test_a_model_with_other_labels_and_sizes(tokenizer):
    types = ["O", *(f"{p}-{t}" for t in ("Person", "Product") for p in "BIES")]
    labels = {"ner_labels": types, "sentiment_labels": ["bad", "good"], "chunk_words": 5}
    other = other_model(tokenizer, **labels, positions=16)
    one = TSNPipeline(make_model("bert", len(tokenizer)), tokenizer)
    one(TEXTS)
    one.model = other
    assert one(TEXTS) == TSNPipeline(other, tokenizer)(TEXTS)
    one.model.config.temperatures = {"topic": 2.0, "ner": 2.0, "sentiment": 2.0}
    assert one(TEXTS) == TSNPipeline(other, tokenizer)(TEXTS)


def test_a_tokenizer_with_a_smaller_limit(tokenizer):
    shorter = copy.deepcopy(tokenizer)
    shorter.model_max_length = 12
    one = TSNPipeline(make_model("bert", len(tokenizer)), tokenizer)
    one.tokenizer = shorter
    assert max(one.preprocess(TEXTS).token_counts) <= 12
    assert one(TEXTS) == TSNPipeline(one.model, shorter)(TEXTS)


def test_a_compiled_model_runs(tokenizer):
    model = make_model("bert", len(tokenizer))
    one = TSNPipeline(model, tokenizer)
    expected, graphs = one(TEXTS, batch_size=4), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    one.model = torch.compile(model, backend=backend)
    assert_same(one(TEXTS, batch_size=4), expected)
    assert graphs, "the compiled graph is what runs"
    with torch.no_grad():
        model.sentiment_head.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    assert {result["sentiment"]["label"] for result in one(TEXTS)} == {"negative"}


def test_torch_and_int8_swapped(onnx_folder):
    tokenizer = AutoTokenizer.from_pretrained(onnx_folder)
    int8 = TSNModel.from_pretrained(onnx_folder, onnx_file="model_quantized.onnx", num_threads=1)
    model = TSNModel.from_pretrained(onnx_folder).eval()
    by_torch, by_int8 = TSNPipeline(model, tokenizer)(TEXTS), TSNPipeline(int8, tokenizer)(TEXTS)
    one = TSNPipeline(model, tokenizer)
    for held, expected in ((int8, by_int8), (model, by_torch), (int8, by_int8)):
        one.model = held
        assert_same(one(TEXTS, batch_size=2), expected)
    assert by_torch != by_int8

    class OrtModel:  # as Optimum's ORTModelForCustomTasks: a session and a configuration
        def __init__(self, path):
            self.session, self.config = TSNModel.from_pretrained(onnx_folder, onnx_file=path).session, model.config

    one.model = OrtModel("model_quantized.onnx")
    assert one(TEXTS, batch_size=2) == by_int8
    one.model = OrtModel("model.onnx")
    assert_same(one(TEXTS, batch_size=2), by_torch)


# Thresholds


@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 1, 1.0])
def test_entity_threshold_leaves_out_entities_alone(pipe, threshold):
    text = " ".join(TEXTS)
    every, result = pipe(text), pipe(text, entity_threshold=threshold)
    assert_same(result["entities"], [entity for entity in every["entities"] if entity["score"] >= threshold])
    assert_same(result["topics"], every["topics"])
    assert_same(result["sentiment"], every["sentiment"])
    assert any(entity["score"] < 0.5 for entity in every["entities"])


def test_both_thresholds_at_once(pipe):
    text, found = " ".join(TEXTS), {}
    for topics, entities in itertools.product((0.0, 0.4, 0.6), repeat=2):
        result = pipe(text, threshold=topics, entity_threshold=entities)
        found[topics, entities] = [len(result["topics"]), len(result["entities"])]
    for topics, entities in found:
        assert found[topics, entities] == [found[topics, 0.0][0], found[0.0, entities][1]]
