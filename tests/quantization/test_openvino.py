"""`quantize.py --backend openvino`: fixed scales, the same gate and report, and layers that are left in fp32."""

import hashlib
import json
import shutil

import numpy as np
import openvino
import pytest

import quantize
from modeling_tsn import TSNModel
from openvino_tsn import openvino_core
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, make_model, make_tokenizer
from tests.quantization.test_quantize import REPORTS, snapshot
from tsn.heads import MAIN_METRICS
from tsn.quantization import run, with_openvino
from tsn.quantization.with_openvino import OpenVinoBackend

FILES = {"model.xml", "model.bin", "model_quantized.xml", "model_quantized.bin"}


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backend") / "openvino"
    folder.mkdir()
    tokenizer = make_tokenizer()
    chunks = [dict(tokenizer(text, truncation=True)) for text in TEXTS]
    return OpenVinoBackend(make_model("bert", len(tokenizer)), folder, chunks)


@pytest.fixture(scope="module")
def quantized(hub_folder, data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "out"
    options = ["--eval_file", str(data_file), "--max_drop", "1", "--mixed_precision", "auto"]
    quantize.main([str(hub_folder), "--output_dir", str(folder), "--backend", "openvino", *options])
    return folder


def int8_layers(backend):
    """Names of the layers whose weights are int8, and those that read quantized activations."""
    nodes = openvino_core().read_model(backend.files(backend.INT8)[0]).get_ordered_ops()
    weights, activations = set(), set()
    for node in nodes:
        sources = [value.get_node() for value in node.input_values()]
        if any(source.get_type_name() == "FakeQuantize" for source in sources):
            activations.add(node.get_friendly_name())
        while sources:
            source = sources.pop()
            if source.get_type_name() == "Constant" and source.get_element_type() in (
                openvino.Type.i8,
                openvino.Type.u8,
            ):
                weights.add(node.get_friendly_name())
            elif source.get_type_name() in ("Multiply", "Convert", "Subtract"):
                sources += [value.get_node() for value in source.input_values()]
    return weights & set(backend.layers()), activations


def test_what_has_a_weight_is_quantized(backend):
    layers = backend.layers()
    assert len(layers) == 2 * 6 + 3 + 4  # two layers, three embeddings, the heads
    backend.quantize()
    weights, activations = int8_layers(backend)
    assert weights == set(layers)
    assert activations > {name for name in layers if "embeddings" not in name}  # and the attention's own products


def test_layers_left_in_fp32(backend):
    kept = [name for name in backend.layers() if "layer.0/" in name][:4]
    backend.quantize(kept)
    weights, activations = int8_layers(backend)
    assert weights == set(backend.layers()) - set(kept) and not activations & set(kept)


def test_a_single_layer_is_quantized(backend):
    """Its answers differ from fp32's; those of a model without any quantization do not."""
    inputs = np.arange(5, 21)[None]  # (1, tokens)
    expected = backend.load(backend.FP32)(inputs).topic_logits
    [layer] = [name for name in backend.layers() if "layer.1/output" in name]
    backend.quantize_only(layer)
    assert 0 < (backend.load(backend.INT8)(inputs).topic_logits - expected).abs().max() < 0.1 * expected.abs().max()
    assert int8_layers(backend)[1] == {layer}
    backend.quantize_only("no layer")
    assert (backend.load(backend.INT8)(inputs).topic_logits - expected).abs().max() < 1e-4


def test_a_graph_that_differs_from_torch_is_refused(backend, tmp_path, monkeypatch):
    other, convert = make_model("bert"), with_openvino.export_onnx
    other.topic_head.bias.data += 0.1
    monkeypatch.setattr(with_openvino, "export_onnx", lambda model, path: convert(other, path))
    (tmp_path / "openvino").mkdir()
    with pytest.raises(ValueError, match="the OpenVINO graph differs from torch by"):
        OpenVinoBackend(make_model("bert"), tmp_path / "openvino", [])


def test_the_folder_and_the_report(quantized, data_file):
    folder = quantized / "openvino"
    assert {path.name for path in folder.iterdir()} == FILES | REPORTS
    report = json.loads((folder / "quantization_report.json").read_text())
    assert report["files"] == {
        name: {
            "bytes": (folder / name).stat().st_size,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in FILES
    }
    [trial] = report["trials"]
    assert trial["passes"] and trial["bytes"] == sum(
        report["files"][f"model_quantized.{s}"]["bytes"] for s in ("xml", "bin")
    )
    for head, name in MAIN_METRICS.items():
        assert trial["drops"][head] == trial["fp32_results"]["all"][name] - trial["results"]["all"][name]
    assert report["mode"] == "static" and "preset" not in report and report["way"] == with_openvino.NAME
    errors = report["layer_errors"]
    assert list(errors) == sorted(errors, key=errors.get, reverse=True) and len(errors) == 19
    assert min(errors.values()) >= 0 < max(errors.values())
    weights = hashlib.sha256((quantized / "model.safetensors").read_bytes()).hexdigest()
    assert report["weights_sha256"] == weights
    assert str(quantized.parent) not in (folder / "model_quantized.xml").read_text()  # it is published
    model = TSNModel.from_pretrained(quantized, openvino_file="model_quantized.xml", num_threads=1)
    assert len(TSNPipeline(model=model, tokenizer=make_tokenizer())(TEXTS, batch_size=4)) == len(TEXTS)


def test_attention_is_fused_and_its_scale_a_constant(quantized):
    nodes = openvino_core().read_model(quantized / "openvino" / "model.xml").get_ordered_ops()
    fused = [node for node in nodes if node.get_type_name() == "ScaledDotProductAttention"]
    assert len(fused) == 2
    for node in fused:
        query, *_, scale = [value.get_node() for value in node.input_values()]
        assert query.get_type_name() == "Transpose" and scale.get_type_name() == "Constant"  # not scaled before
        assert scale.data == pytest.approx(query.get_output_partial_shape(0)[-1].get_length() ** -0.5)


def test_a_failed_gate_leaves_the_good_model_alone(quantized, hub_folder, data_file, monkeypatch):
    before = snapshot(quantized)
    worse = iter([{"all": {"ner_f1": 0.9}}, {"all": {"ner_f1": 0.89}}])
    monkeypatch.setattr(run, "evaluate_rows", lambda *args: next(worse))
    options = ["--backend", "openvino", "--eval_file", str(data_file)]
    with pytest.raises(SystemExit, match="loses more than 0.005; nothing was written"):
        quantize.main([str(hub_folder), "--output_dir", str(quantized), *options])
    assert snapshot(quantized) == before


def test_scales_from_a_file_of_texts(hub_folder, data_file, tmp_path):
    checkpoint = shutil.copytree(hub_folder, tmp_path / "hub")
    options = ["--output_dir", str(checkpoint), "--backend", "openvino"]
    quantize.main([str(checkpoint), *options, "--calibration_file", str(data_file)])
    assert {path.name for path in (checkpoint / "openvino").iterdir()} == FILES | REPORTS
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(SystemExit, match="no text with words in .*empty.jsonl"):
        quantize.main([str(checkpoint), *options, "--calibration_file", str(tmp_path / "empty.jsonl")])
