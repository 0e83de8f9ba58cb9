"""`handler.py`: the contract of an Inference Endpoint, on a folder as it stands on the Hub."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from handler import PARAMETERS, EndpointHandler
from modeling_tsn import TSNModel
from pipeline_tsn import _PARAMETERS, TSNPipeline
from tests.conftest import ROOT, TEXTS
from tests.runtime.test_pipeline import assert_same


@pytest.fixture(scope="module")
def handler(hub_folder):
    return EndpointHandler(str(hub_folder))


@pytest.fixture(scope="module")
def expected(hub_folder):
    model = TSNModel.from_pretrained(hub_folder).eval()
    return TSNPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(hub_folder))


def test_a_string_gives_a_dict_and_a_list_a_list(handler, expected):
    assert handler({"inputs": TEXTS[0]}) == expected(TEXTS[0])
    assert handler({"inputs": TEXTS, "parameters": None}) == expected(TEXTS, batch_size=32)
    assert handler({"inputs": []}) == []
    parameters = {"top_k": 2, "aggregation": "mean", "max_words": 5, "return_chunks": True}
    found = handler({"inputs": TEXTS, "parameters": {**parameters, "batch_size": 2}})
    assert found == expected(TEXTS, batch_size=2, **parameters)
    assert json.loads(json.dumps(found)) == found  # what a response can carry


def test_thresholds_and_the_sentiment_of_entities(handler, expected):
    inputs, whole = " ".join(TEXTS), expected(" ".join(TEXTS))
    for name, head in (("threshold", "topics"), ("entity_threshold", "entities")):
        kept = [span for span in whole[head] if span["score"] >= 0.4]
        assert 0 < len(kept) < len(whole[head])
        assert_same([handler({"inputs": inputs, "parameters": {name: 0.4}})], [{**whole, head: kept}])
    for entity in handler({"inputs": inputs})["entities"]:
        assert entity["sentiment"] in ("negative", "neutral", "positive") and entity["sentiment_score"] > 1 / 3


def test_a_list_is_batched(handler, monkeypatch):
    sizes, forward = [], handler.pipeline.forward
    monkeypatch.setattr(
        handler.pipeline, "forward", lambda x, **k: sizes.append(len(x["input_ids"])) or forward(x, **k)
    )
    handler({"inputs": TEXTS * 8})
    assert max(sizes) > 4


@pytest.mark.parametrize(
    "data, words",
    [
        (None, "a request is"),
        ([], "a request is"),
        ({}, "a request is"),
        ({"text": "x"}, "a request is"),
        ({"inputs": None}, "not NoneType"),
        ({"inputs": {"text": "x"}}, "not dict"),
        ({"inputs": ["x", 3]}, r"inputs\[1\] must be a string, not int"),
        ({"inputs": "x", "parameters": [1]}, "parameters must be an object, not list"),
        ({"inputs": "x", "parameters": []}, "parameters must be an object, not list"),
        ({"inputs": "x", "parameters": {"batch_size": 10**6}}, "batch_size must be 256 at most"),
        ({"inputs": "x", "parameters": {"topk": 1}}, "unknown parameter topk; there are aggregation"),
        ({"inputs": "x", "parameters": {"num_workers": 4}}, "unknown parameter num_workers"),
        ({"inputs": "x", "parameters": {"top_k": 0}}, "top_k"),
        ({"inputs": "x", "parameters": {"batch_size": "8"}}, "batch_size"),
        ({"inputs": "x", "parameters": {"threshold": 2}}, "threshold"),
        ({"inputs": "x", "parameters": {"entity_threshold": "0.5"}}, "entity_threshold must be a number from 0 to 1"),
    ],
)
def test_bad_requests_are_clear_errors(handler, data, words):
    with pytest.raises(ValueError, match=words):
        handler(data)


def test_every_parameter_of_the_pipeline_is_taken():
    assert {*_PARAMETERS, "batch_size"} == PARAMETERS


def test_int8_runs_where_it_is_there_and_no_gpu(onnx_folder, monkeypatch):
    assert EndpointHandler(str(onnx_folder)).pipeline.model.quantized
    monkeypatch.setattr("handler._has_gpu", lambda: True)
    assert not hasattr(EndpointHandler(str(onnx_folder)).pipeline.model, "quantized")


def test_without_onnxruntime_torch_runs(onnx_folder, monkeypatch):
    monkeypatch.setattr("handler.importlib.util.find_spec", lambda name: None)
    assert not hasattr(EndpointHandler(str(onnx_folder)).pipeline.model, "quantized")


def test_the_folder_is_that_of_the_file_by_default(hub_folder, tmp_path):
    """As an endpoint imports it: from the repository, by path."""
    import importlib.util

    folder = shutil.copytree(hub_folder, tmp_path / "repository")
    shutil.copy(ROOT / "handler.py", folder)
    spec = importlib.util.spec_from_file_location("endpoint_handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.EndpointHandler()({"inputs": TEXTS[1]})["sentiment"]["label"]
