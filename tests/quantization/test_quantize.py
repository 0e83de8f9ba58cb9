"""`quantize.py`, with what exports for it: export, int8, the accuracy gate, mixed precision, and clear errors."""

import json
import re
import shutil

import onnx
import onnxruntime
import pytest
from transformers import AutoTokenizer

import quantize
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, example_rows, make_model, make_tokenizer
from tests.runtime.test_pipeline import assert_same
from tsn.evaluation.metric import MAIN_METRICS
from tsn.hub.files import RUNTIME_FILES
from tsn.hub.folder import write_hub_folder
from tsn.quantization import export, run
from tsn.quantization.export import (
    PRESETS,
    OnnxBackend,
    auto_preset,
    export_onnx,
    processor,
    quantize_onnx,
    weight_nodes,
)

ONNX_FILES = {"model.onnx", "model_quantized.onnx", "ort_config.json"}
REPORTS = {"quantization_report.json", "quantization_report.md"}


def operators(path):
    """Operator types of a graph, with the names of its nodes."""
    return {node.name: node.op_type for node in onnx.load(path).graph.node}


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def quantized(hub_folder, data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized") / "out"
    options = ["--eval_file", str(data_file), "--max_drop", "1", "--mixed_precision", "auto"]
    quantize.main([str(hub_folder), "--output_dir", str(folder), *options])
    return folder


@pytest.fixture(scope="module")
def fp32_file(quantized):
    return quantized / "onnx" / "model.onnx"


@pytest.mark.parametrize("backbone", ["bert", "distilbert"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_export_is_what_torch_computes(backbone, pooling, tmp_path):
    assert export_onnx(make_model(backbone, pooling=pooling), tmp_path / "model.onnx") < 1e-5
    graph = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    heads = ("topic", "ner", "sentiment", "topic_sentiment")
    assert [value.name for value in graph.get_outputs()] == [f"{head}_logits" for head in heads]
    names = ["input_ids", "attention_mask", "token_type_ids"]
    assert [value.name for value in graph.get_inputs()] == names[: 3 if backbone == "bert" else 2]
    assert all(isinstance(size, str) for value in graph.get_inputs() for size in value.shape)  # any batch and length


def test_export_that_differs_is_refused(tmp_path, monkeypatch):
    other, whole = make_model("bert"), export.way.export_graph
    other.topic_head.bias.data += 0.1
    monkeypatch.setattr(export.way, "export_graph", lambda model, *rest: whole(other, *rest))
    with pytest.raises(ValueError, match="differs from torch by .* of the largest logit"):
        export_onnx(make_model("bert"), tmp_path / "model.onnx")


def test_the_scale_of_the_attention_is_a_constant(fp32_file):
    found = set(operators(fp32_file).values())
    assert "Softmax" in found and "Sqrt" not in found  # the fused attention would add it


def test_only_what_has_a_weight_is_quantized(fp32_file):
    nodes, all_nodes = weight_nodes(fp32_file), operators(fp32_file)
    layers = ("query", "key", "value", "attention/output/dense", "intermediate/dense", "output/dense")
    for layer in (0, 1):
        assert sum(f"layer.{layer}/" in name for name in nodes) == len(layers)
    # The sentiment head reads the text and the tokens.
    assert sum("embeddings" in name for name in nodes) == 3 and sum("head" in name for name in nodes) == 4
    assert len(nodes) == 2 * len(layers) + 7
    products = [name for name, kind in all_nodes.items() if kind == "MatMul" and name not in nodes]
    assert len(products) == 2 * 2  # queries by keys and shares by values, in two layers
    kept = operators(fp32_file.with_name("model_quantized.onnx"))
    assert [name for name, kind in kept.items() if kind == "MatMul"] == products


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_and_layers_kept_in_fp32(fp32_file, preset, tmp_path):
    nodes = [name for name in weight_nodes(fp32_file) if "layer." in name]  # a quantized Gather keeps its name
    whole = quantize_onnx(fp32_file, tmp_path, preset)
    kinds = {tensor.data_type for tensor in onnx.load(whole).graph.initializer if tensor.name.endswith("_quantized")}
    signed = onnx.TensorProto.UINT8 if preset == "avx2" else onnx.TensorProto.INT8
    assert signed in kinds
    everything, size = operators(whole), whole.stat().st_size  # the next one replaces it
    part = quantize_onnx(fp32_file, tmp_path, preset, keep=nodes[:4])
    assert part.stat().st_size > size and json.loads((tmp_path / "ort_config.json").read_text())
    assert set(nodes[:4]) <= set(operators(part)) and not set(nodes[:4]) & set(everything)
    assert list(everything.values()).count("MatMulInteger") > list(operators(part).values()).count("MatMulInteger") > 0


@pytest.mark.parametrize(
    ("machine", "preset"),
    [("x86_64", "avx512_vnni"), ("AMD64", "avx512_vnni"), ("aarch64", "arm64"), ("arm64", "arm64")],
)
def test_auto_preset(machine, preset, monkeypatch):
    monkeypatch.setattr(export.platform, "machine", lambda: machine)
    assert auto_preset() == preset


def test_the_folder_it_writes(quantized, hub_folder):
    assert {path.name for path in (quantized / "onnx").iterdir()} == ONNX_FILES | REPORTS
    assert set(RUNTIME_FILES) < {path.name for path in quantized.iterdir()}
    assert not list(quantized.glob(".quantize*"))
    assert (quantized / "model.safetensors").read_bytes() == (hub_folder / "model.safetensors").read_bytes()
    sizes = {path.name: path.stat().st_size for path in (quantized / "onnx").iterdir()}
    assert sizes["model_quantized.onnx"] < sizes["model.onnx"]  # by little: most of so small a file is the graph


def test_the_report_holds_what_was_measured(quantized, data_file):
    report = json.loads((quantized / "onnx" / "quantization_report.json").read_text())
    (trial,) = report["trials"]  # any loss was allowed, so the first model passed
    assert trial["passes"] and trial["fp32_layers"] == [] and set(trial["drops"]) == set(MAIN_METRICS)
    for head, name in MAIN_METRICS.items():
        assert trial["drops"][head] == trial["fp32_results"]["all"][name] - trial["results"]["all"][name]
    assert report["eval_files"] == [data_file.name] and report["mode"] == "dynamic"
    assert (
        report["way"] == export.way.NAME and report["processor"] == processor() and report["preset"] == auto_preset()
    )
    assert report["files"]["model_quantized.onnx"]["bytes"] == trial["bytes"]
    errors = report["layer_errors"]
    assert list(errors) == sorted(errors, key=errors.get, reverse=True) and min(errors.values()) >= 0
    assert set(errors) == set(weight_nodes(quantized / "onnx" / "model.onnx"))
    table = (quantized / "onnx" / "quantization_report.md").read_text()
    assert re.search(rf"\| +0 \| +{trial['bytes'] / 1e6:.1f} \|", table)


def test_optimum_and_our_own_runtime_give_the_same(quantized):
    reason = "no optimum-onnx goes with transformers 5"
    ORTModelForCustomTasks = pytest.importorskip("optimum.onnxruntime", reason=reason).ORTModelForCustomTasks
    tokenizer = AutoTokenizer.from_pretrained(quantized)
    for file in ("model.onnx", "model_quantized.onnx"):
        ours = TSNPipeline(model=TSNModel.from_pretrained(quantized, onnx_file=file), tokenizer=tokenizer)
        model = ORTModelForCustomTasks.from_pretrained(
            quantized, subfolder="onnx", file_name=file, trust_remote_code=True
        )
        theirs = TSNPipeline(model=model, tokenizer=tokenizer)
        assert theirs.model is model
        expected = ours(TEXTS)
        assert_same(theirs(TEXTS, batch_size=3), expected)
        if file == "model_quantized.onnx":
            assert theirs(TEXTS, batch_size=3) == [theirs(text) for text in TEXTS]  # to the bit, in any batch


class Folder(OnnxBackend):
    """A backend whose fp32 file is there already."""

    def __init__(self, fp32, folder):
        shutil.copyfile(fp32, folder / self.FP32)
        self.config, self._folder, self._preset = (
            make_model("bert", len(make_tokenizer())).config,
            folder,
            "avx512_vnni",
        )


def test_mixed_precision_keeps_the_fewest_layers_that_pass(fp32_file, tmp_path):
    (tmp_path / "onnx").mkdir()
    backend = Folder(fp32_file, tmp_path / "onnx")
    order = [name for name in weight_nodes(fp32_file) if "layer." in name][::-1]
    int8 = tmp_path / "onnx" / "model_quantized.onnx"
    for enough in (0, 1, 3):

        def measure(model, enough=enough):
            kept = len(set(order) & set(operators(int8))) if model.quantized else len(order)
            return {"all": {"topic_f1": 0.5 - 0.01 * (kept < enough), "ner_f1": 0.5}}

        trials = run.find_model(backend, measure, 0.005, order, [(1, 8)])
        assert [trial["passes"] for trial in trials] == [False] * enough + [True]
        assert trials[-1]["fp32_layers"] == order[:enough] and set(order[:enough]) <= set(operators(int8))
        sizes = [trial["bytes"] for trial in trials]
        assert sizes == sorted(sizes) and int8.stat().st_size == sizes[-1]
    with pytest.raises(run.GateFailed, match="loses more than 0.005"):
        run.find_model(backend, lambda model: {"all": {"ner_f1": float(not model.quantized)}}, 0.005, [], [(1, 8)])


def test_a_failed_gate_leaves_the_good_model_alone(quantized, hub_folder, data_file, monkeypatch, capsys):
    before = snapshot(quantized)
    worse = iter([{"all": {"ner_f1": 0.9}}, {"all": {"ner_f1": 0.89}}])
    monkeypatch.setattr(run, "evaluate_rows", lambda *args: next(worse))
    with pytest.raises(SystemExit, match="loses more than 0.005; nothing was written"):
        quantize.main([str(hub_folder), "--output_dir", str(quantized), "--eval_file", str(data_file)])
    assert snapshot(quantized) == before
    assert "0.8900" in capsys.readouterr().err


def test_a_picture_where_several_models_were_tried(hub_folder, data_file, tmp_path, monkeypatch):
    found = iter([{"all": {"ner_f1": value}} for value in (0.9, 0.89, 0.9)])  # in fp32, in int8, with a layer in fp32
    monkeypatch.setattr(run, "evaluate_rows", lambda *args: next(found))
    options = ["--eval_file", str(data_file), "--mixed_precision", "auto"]
    quantize.main([str(hub_folder), "--output_dir", str(tmp_path), *options])
    report = json.loads((tmp_path / "onnx" / "quantization_report.json").read_text())
    assert [trial["passes"] for trial in report["trials"]] == [False, True]
    assert (tmp_path / "onnx" / "quantization_report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_encoders_that_read_more_than_their_tokenizer_gives(data_file, tmp_path, backend):
    """multilingual-e5 is a BERT, which knows token types, with XLM-RoBERTa's tokenizer, which has none."""
    tokenizer = make_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    write_hub_folder(make_model("bert", len(tokenizer)), tokenizer, tmp_path / "hub")
    options = ["--backend", backend, "--eval_file", str(data_file), "--max_drop", "1", "--mixed_precision", "auto"]
    quantize.main([str(tmp_path / "hub"), "--output_dir", str(tmp_path / "out"), *options])
    assert list((tmp_path / "out" / backend).glob("model_quantized.*"))


def test_onnx_into_the_checkpoint_itself(hub_folder, tmp_path):
    shutil.copytree(hub_folder, tmp_path / "hub")
    before = snapshot(tmp_path / "hub")
    quantize.main([str(tmp_path / "hub"), "--output_dir", str(tmp_path / "hub")])
    after = snapshot(tmp_path / "hub")
    assert {path: after[path] for path in before} == before  # nothing but the onnx folder is new
    assert {path.parts[0] for path in after if path not in before} == {"onnx"}


@pytest.mark.parametrize("kind", ["empty", "unlabelled", "missing", "no checkpoint", "file in the way", "bad row"])
def test_what_cannot_work_says_so_and_writes_nothing(kind, hub_folder, data_file, tmp_path):
    data, checkpoint, output = tmp_path / "data.jsonl", hub_folder, tmp_path / "out"
    rows = {"unlabelled": [{"text": "One."}], "bad row": [{"text": 7}]}.get(kind, example_rows() * (kind != "empty"))
    if kind != "missing":
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if kind == "no checkpoint":
        checkpoint = tmp_path / "nothing"
        checkpoint.mkdir()
    if kind == "file in the way":
        output.write_text("not a folder")
    messages = {
        "empty": "nothing is annotated in .*data.jsonl: 0 rows",
        "unlabelled": "nothing is annotated in .*data.jsonl: 1 rows",
        "missing": "data.jsonl: no such file",
        "no checkpoint": "config.json|nothing",
        "file in the way": "out",
        "bad row": "data.jsonl, row 1: text must be a string",
    }
    with pytest.raises(SystemExit, match=r"quantize.py: (?s:.)*(" + messages[kind] + ")"):
        quantize.main([str(checkpoint), "--output_dir", str(output), "--eval_file", str(data)])
    assert output.read_text() == "not a folder" if kind == "file in the way" else not list(output.glob("**/*"))


def test_options_that_contradict_each_other(hub_folder, tmp_path, capsys):
    for options, message in (
        (["--mixed_precision", "auto"], "--mixed_precision auto needs an --eval_file"),
        (["--max_drop", "2"], "--max_drop must be from 0 to 1"),
        (["--preset", "z80"], "invalid choice: 'z80'"),
        (["--backend", "openvino"], "pass an --eval_file or a --calibration_file"),
        (["--calibration_file", "x.jsonl"], "--calibration_file is for --backend openvino"),
        (["--backend", "openvino", "--eval_file", "x", "--preset", "avx2"], "--preset is for --backend onnx"),
    ):
        with pytest.raises(SystemExit):
            quantize.main([str(hub_folder), "--output_dir", str(tmp_path), *options])
        assert message in capsys.readouterr().err
