"""The two ways to ONNX and int8, with Optimum and without it, give the same graphs and the same weights."""

import numpy as np
import onnx
import onnxruntime
import pytest
from transformers import AutoTokenizer

from modeling_tsn import TSNModel
from onnx_tsn import TSNOnnxModel
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, make_model
from tests.runtime.test_pipeline import assert_same
from tsn.heads import OUTPUTS
from tsn.quantization import export, with_torch
from tsn.quantization.export import PRESETS, TOLERANCE, export_onnx, quantize_onnx, weight_nodes

REASON = "no optimum-onnx goes with transformers 5"


@pytest.fixture
def ways():
    """The two modules; the tests below need both, so that they run on transformers 4.57."""
    pytest.importorskip("optimum.onnxruntime", reason=REASON)
    from tsn.quantization import with_optimum

    return [with_optimum, with_torch]


def answers(path, texts, tokenizer):
    """The heads' logits of each text, alone: `(1, tokens, labels)` arrays and one of `(1, classes)`."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    encodings = [dict(tokenizer(text, truncation=True, return_tensors="np")) for text in texts]
    return [session.run(OUTPUTS, {name: encoding[name] for name in names}) for encoding in encodings]


def int8_weights(path):
    """The quantized tensors of a graph, in an order that does not depend on their names."""
    graph = onnx.load(path).graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if len(tensor.dims) == 2]
    return sorted((array.dtype.name, array.shape, array.tobytes()) for array in arrays if array.itemsize == 1)


def test_optimum_is_the_way_where_it_goes(ways):
    assert export.way is ways[0]
    assert export.way.NAME.startswith("optimum ") and with_torch.NAME.startswith("torch ")


@pytest.mark.parametrize("backbone", ["bert", "distilbert"])
def test_the_ways_draw_graphs_that_agree(ways, backbone, tokenizer, tmp_path, monkeypatch):
    model, found, weights = make_model(backbone, len(tokenizer)), [], []
    for way in ways:
        monkeypatch.setattr(export, "way", way)
        fp32 = tmp_path / f"model_{len(found)}.onnx"
        export_onnx(model, fp32)
        found.append(answers(fp32, TEXTS, tokenizer))
        nodes = [name.removeprefix("/model") for name in weight_nodes(fp32)]
        int8 = {preset: int8_weights(quantize_onnx(fp32, tmp_path, preset)) for preset in PRESETS}
        weights.append((nodes, int8))
    largest = max(np.abs(values).max() for row in found[0] for values in row)
    for row, other in zip(*found):
        assert max(np.abs(a - b).max() for a, b in zip(row, other)) <= TOLERANCE * largest
    assert weights[0] == weights[1] and all(weights[0][1].values())


def test_without_optimum_everything_works_as_with_it(hub_folder, tmp_path, monkeypatch):
    """On transformers 5 the other tests show it; this one does on 4.57."""
    monkeypatch.setattr(export, "way", with_torch)
    model, tokenizer = TSNModel.from_pretrained(hub_folder), AutoTokenizer.from_pretrained(hub_folder)
    folder = tmp_path / "onnx"
    folder.mkdir()
    attention = model.backbone.config._attn_implementation
    assert export_onnx(model, folder / "model.onnx") < 1e-5
    assert model.backbone.config._attn_implementation == attention and not any(m.training for m in model.modules())
    path = quantize_onnx(folder / "model.onnx", folder, "avx512_vnni")
    assert "MatMulInteger" in {node.op_type for node in onnx.load(path).graph.node}
    assert {file.name for file in folder.iterdir()} == {"model.onnx", "model_quantized.onnx", "ort_config.json"}
    pipes = [
        TSNPipeline(model=TSNOnnxModel.from_pretrained(tmp_path, model.config, name), tokenizer=tokenizer)
        for name in ("model.onnx", "model_quantized.onnx")
    ]
    expected = TSNPipeline(model=model, tokenizer=tokenizer)(TEXTS)
    assert_same(pipes[0](TEXTS), expected)
    assert pipes[1].model.quantized and len(pipes[1](TEXTS)) == len(TEXTS)
