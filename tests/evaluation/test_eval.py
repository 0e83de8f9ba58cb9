"""eval.py: figures by source and language, the files it writes, and its errors."""

import hashlib
import json
import re

import pytest

import eval as evaluation
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import ROOT, example_rows
from tsn.evaluation.metric import TSNMetric
from tsn.tables import results_table


@pytest.fixture
def labelled(tmp_path):
    """Rows of two sources, one of them in two languages."""
    rows = [{**row, "source": row.get("source", "other"), "language": "en"} for row in example_rows()]
    rows[-2]["language"] = "de"
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, rows


def test_figures_agree_with_the_metric(tmp_path, hub_folder, labelled, tokenizer, capsys):
    path, rows = labelled
    evaluation.main([str(hub_folder), str(path), "--output_dir", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert list(record["results"]) == ["all", "news", "other", "other/de", "other/en", "reviews"]
    assert [group["rows"] for group in record["results"].values()] == [6, 1, 4, 1, 3, 1]

    pipe = TSNPipeline(TSNModel.from_pretrained(hub_folder), tokenizer)
    predictions, references = [], []
    for row in rows:
        found = pipe(row["text"])
        entities = [{"start": e["start"], "end": e["end"], "label": e["entity_group"]} for e in found["entities"]]
        label = found["sentiment"]["label"]
        predictions.append({"topics": found["topics"], "entities": entities, "sentiment": label})
        topics = row.get("topics") and [{**t, "word": row["text"][t["start"] : t["end"]]} for t in row["topics"]]
        references.append({"topics": topics, "entities": row.get("entities"), "sentiment": row.get("sentiment")})
    expected = TSNMetric(keep_in_memory=True).compute(predictions=predictions, references=references)
    measured = record["results"]["all"]
    assert {name: measured[name] for name in expected} == pytest.approx(expected)
    others = measured.keys() - expected.keys()
    assert all(re.search("^rows$|_ece$|^topic_(sentiment|end_to_end)_|^ner_common_noun_", name) for name in others)

    assert record["weights_sha256"] == hashlib.sha256((hub_folder / "model.safetensors").read_bytes()).hexdigest()
    table = (tmp_path / "out" / "eval_results.md").read_text()
    assert table == capsys.readouterr().out
    assert len(table.splitlines()) == 2 + 6 and f"{expected['topic_f1']:.3f}" in table


def test_calibration_and_confusion_agree_with_a_count(tmp_path, hub_folder, labelled, tokenizer):
    path, rows = labelled
    evaluation.main([str(hub_folder), str(path), "--output_dir", str(tmp_path), "--plots", str(tmp_path / "plots")])
    record = json.loads((tmp_path / "eval_results.json").read_text())
    pipe = TSNPipeline(TSNModel.from_pretrained(hub_folder), tokenizer)
    answers, gold_spans, hits = [], 0, 0
    for row in rows:
        found = pipe(row["text"])
        if row.get("entities") is not None:
            gold = {(e["start"], e["end"], e["label"]) for e in row["entities"]}
            gold_spans += len(gold)
            for e in found["entities"]:
                answers.append((e["score"], (e["start"], e["end"], e["entity_group"]) in gold))
                hits += answers[-1][1]
    bins = {}
    for score, right in answers:
        bins.setdefault(min(int(score * 15), 14), []).append((score, right))
    gaps = (abs(sum(s for s, _ in b) - sum(r for _, r in b)) for b in bins.values())
    assert record["results"]["all"]["ner_ece"] == pytest.approx(sum(gaps) / len(answers), abs=1e-6)
    assert sum(b["count"] for b in record["reliability"]["ner"]["bins"]) == len(answers)
    entities = record["confusion"]["entities"]
    counts, last = entities["counts"], len(entities["labels"]) - 1
    assert entities["labels"][last] == "none" and counts[last][last] == 0
    assert sum(map(sum, counts[:last])) == gold_spans, "each gold span stands in one row"
    assert sum(row[i] for row in counts for i in range(last)) == len(answers), "each answer in one column"
    assert sum(counts[i][i] for i in range(last)) == hits
    sentiment = record["confusion"]["sentiment"]["counts"]
    assert sum(map(sum, sentiment)) == sum(row.get("sentiment") is not None for row in rows)
    names = {p.name for p in (tmp_path / "plots").iterdir()}
    assert names == {"confusion_sentiment.png", "confusion_entities.png", "reliability.png"}


def test_data_without_labels_is_an_error(tmp_path, hub_folder):
    path = tmp_path / "bare.jsonl"
    path.write_text(json.dumps({"text": "Nothing is known."}) + "\n")
    with pytest.raises(SystemExit, match="nothing is annotated"):
        evaluation.main([str(hub_folder), str(path)])
    path.write_text("")
    with pytest.raises(SystemExit, match="nothing is annotated"):
        evaluation.main([str(hub_folder), str(path)])


def test_missing_checkpoint_and_data_are_errors(tmp_path, hub_folder, labelled):
    with pytest.raises(SystemExit, match="nowhere"):
        evaluation.main([str(tmp_path / "nowhere"), str(labelled[0])])
    with pytest.raises(SystemExit, match="no such file"):
        evaluation.main([str(hub_folder), str(tmp_path / "nowhere.jsonl")])


def test_recorded_results_are_those_of_the_shipped_weights():
    """The table in docs/results.md is the one that eval.py wrote, for the weights of this folder."""
    record = json.loads((ROOT / "results" / "eval_results.json").read_text())
    assert record["weights_sha256"] == hashlib.sha256((ROOT / "model.safetensors").read_bytes()).hexdigest()
    table = results_table(record["results"])
    assert table == (ROOT / "results" / "eval_results.md").read_text()
    assert table in (ROOT / "docs" / "results.md").read_text()


def test_an_openvino_file_is_evaluated_like_the_weights(openvino_folder, data_file, tmp_path):
    for name, options in (("torch", []), ("graph", ["--openvino_file", "model.xml"])):
        evaluation.main([str(openvino_folder), str(data_file), "--output_dir", str(tmp_path / name), *options])
    weights, graph = (json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("torch", "graph"))
    for name, group in weights["results"].items():
        assert graph["results"][name] == pytest.approx(group, abs=1e-5)
    digest = hashlib.sha256((openvino_folder / "openvino" / "model.bin").read_bytes()).hexdigest()
    assert graph["openvino_file"] == "model.xml" and graph["weights_sha256"] == digest


def test_an_onnx_file_is_evaluated_like_the_weights(onnx_folder, data_file, tmp_path):
    records = []
    for name, options in (("torch", []), ("onnx", ["--onnx_file", "model.onnx"])):
        evaluation.main([str(onnx_folder), str(data_file), "--output_dir", str(tmp_path / name), *options])
        records.append(json.loads((tmp_path / name / "eval_results.json").read_text()))
    torch_record, onnx_record = records
    assert onnx_record["results"].keys() == torch_record["results"].keys()
    for name, group in torch_record["results"].items():
        assert onnx_record["results"][name] == pytest.approx(group, abs=1e-5)
    assert onnx_record["onnx_file"] == "model.onnx"
    digest = hashlib.sha256((onnx_folder / "onnx" / "model.onnx").read_bytes()).hexdigest()
    assert onnx_record["weights_sha256"] == digest != torch_record["weights_sha256"]
