"""`tsn/training/finish.py`: averages, the threshold of spans, and the command that ends a training."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, make_model, make_tokenizer
from tsn.data.annotated import COLUMNS
from tsn.data.features import rows_to_features
from tsn.evaluation.calibration import labelled_logits
from tsn.hub.folder import write_hub_folder
from tsn.training import finish
from tsn.training.finish import SHIFTS, average, fit_outside_shifts, lower_outside


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def shifted(model, topic, ner):
    """A copy of a model whose `O` has lower biases, made without the module under test."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.topic_head.bias[model.config.topic_labels.index("O")] -= topic
        model.ner_head.bias[model.config.ner_labels.index("O")] -= ner
    return model


def rows_as_answered(model, tokenizer, texts, source, annotated=None):
    """Rows whose labels are what the model finds."""
    rows = []
    for text, answer in zip(texts, TSNPipeline(model, tokenizer)(texts)):
        entities = [e for e in answer["entities"] if e["entity_group"] in (annotated or ("PER", "LOC", "ORG", "MISC"))]
        row = {**dict.fromkeys(COLUMNS), "text": text, "source": source, "language": "en", "row": "r"}
        row["topics"] = [{"start": t["start"], "end": t["end"], "label": "TOPIC"} for t in answer["topics"]]
        row["entities"] = [{"start": e["start"], "end": e["end"], "label": e["entity_group"]} for e in entities]
        rows.append({**row, "entity_types": annotated})
    return rows


def cautious_model(tokenizer):
    """Finds few spans: at no bias does it find all."""
    return shifted(make_model("bert", len(tokenizer)), -2.0, -2.0)


def mean_topic_f1(model, tokenizer, parts):
    """Shifts to the mean over parts of the rows of topic F1, worked out through the pipeline."""
    values = {}
    for shift in SHIFTS:
        answers = dict(zip(TEXTS, TSNPipeline(shifted(model, shift, 0), tokenizer)(TEXTS)))
        of_parts = []
        for rows in parts:
            expected = {(i, t["start"], t["end"]) for i, row in enumerate(rows) for t in row["topics"]}
            found = {(i, t["start"], t["end"]) for i, row in enumerate(rows) for t in answers[row["text"]]["topics"]}
            of_parts.append(2 * len(expected & found) / max(len(expected) + len(found), 1))
        values[round(float(shift), 1)] = np.mean(of_parts)
    return values


def test_average_is_that_of_the_weights(tokenizer):
    models = [make_model("bert", len(tokenizer)) for _ in range(3)]
    for i, model in enumerate(models):
        torch.manual_seed(i)
        for weight in model.parameters():
            weight.data.normal_()
    states = [{name: w.double() for name, w in copy.deepcopy(m.state_dict()).items()} for m in models]
    made = average(models, [1, 2, 5]).state_dict()
    for name, weight in made.items():
        expected = states[0][name] / 8 + states[1][name] / 4 + states[2][name] * 5 / 8
        assert torch.allclose(weight.double(), expected, atol=1e-5), name


def test_an_average_of_one_is_itself(tokenizer):
    model = make_model("bert", len(tokenizer))
    before = copy.deepcopy(model.state_dict())
    assert all(torch.equal(before[name], weight) for name, weight in average([model], [0.3]).state_dict().items())


def test_what_cannot_be_averaged_is_an_error(tokenizer):
    model = make_model("bert", len(tokenizer))
    with pytest.raises(ValueError, match="different names or shapes"):
        average([model, make_model("distilbert", len(tokenizer))], [1, 1])
    for shares in ([1, 0], [1, -0.5], [float("nan"), 1]):
        with pytest.raises(ValueError, match="shares must be positive"):
            average([model, model], shares)


@pytest.mark.parametrize("topic, ner", [(0.8, 0.4), (1.6, 0.0)])
def test_shift_is_the_one_that_finds_what_is_annotated(tokenizer, topic, ner):
    """The labels are what the model answers at these shifts, so only there can all be right."""
    model = cautious_model(tokenizer)
    rows = rows_as_answered(shifted(model, topic, ner), tokenizer, TEXTS * 8, "a")
    labelled = labelled_logits(model, tokenizer, rows_to_features(rows, tokenizer, model.config))
    shifts = fit_outside_shifts(model.config, labelled)
    answers = TSNPipeline(shifted(model, shifts["topic"], shifts["ner"]), tokenizer)(TEXTS)
    for answer, row in zip(answers, rows):
        for name in ("topics", "entities"):
            assert [(s["start"], s["end"]) for s in answer[name]] == [(s["start"], s["end"]) for s in row[name]]


def test_sources_count_alike_however_large_they_are(tokenizer):
    """The best mean over the sources, worked out through the pipeline."""
    model = cautious_model(tokenizer)
    rows = rows_as_answered(shifted(model, 1.8, 0), tokenizer, TEXTS * 30, "large")
    rows += rows_as_answered(shifted(model, 0.2, 0), tokenizer, TEXTS * 10, "small")
    sources = [[row for row in rows if row["source"] == source] for source in ("large", "small")]
    fitted = fit_outside_shifts(
        model.config, labelled_logits(model, tokenizer, rows_to_features(rows, tokenizer, model.config))
    )
    values = mean_topic_f1(model, tokenizer, sources)
    spans = [sum(len(row["topics"]) for row in some[: len(TEXTS)]) for some in sources]
    assert min(spans) >= 2  # ten times that are enough to count
    assert values[fitted["topic"]] == pytest.approx(max(values.values()))


def test_only_annotated_types_count(tokenizer):
    """Where two types are annotated, spans of the other two are not wrong, however many there are."""
    model = cautious_model(tokenizer)
    types = ["LOC", "MISC"]
    rows = rows_as_answered(shifted(model, 0, 1.6), tokenizer, TEXTS * 20, "a", types)
    labelled = labelled_logits(model, tokenizer, rows_to_features(rows, tokenizer, model.config))
    shift = fit_outside_shifts(model.config, labelled)["ner"]
    answers = TSNPipeline(shifted(model, 0, shift), tokenizer)(TEXTS)
    assert any(e["entity_group"] not in types for answer in answers for e in answer["entities"])
    for answer, row in zip(answers, rows):
        found = [(e["start"], e["end"]) for e in answer["entities"] if e["entity_group"] in types]
        assert found == [(e["start"], e["end"]) for e in row["entities"]]


def test_without_spans_nothing_is_shifted(tokenizer):
    model = make_model("bert", len(tokenizer))
    rows = [{**row, "topics": [], "entities": None} for row in rows_as_answered(model, tokenizer, TEXTS, "a")]
    labelled = labelled_logits(model, tokenizer, rows_to_features(rows, tokenizer, model.config))
    assert fit_outside_shifts(model.config, labelled) == {"topic": 0.0, "ner": 0.0}


def test_what_was_said_is_lowered_as_the_model_is(tokenizer):
    model = make_model("bert", len(tokenizer))
    features = rows_to_features(rows_as_answered(model, tokenizer, TEXTS, "a"), tokenizer, model.config)
    lowered = lower_outside(model, labelled_logits(model, tokenizer, features), {"topic": 0.7, "ner": -0.3})
    again = labelled_logits(model, tokenizer, features)
    for name, head in again.heads.items():
        assert np.allclose(lowered.heads[name].logits, head.logits, atol=1e-5)


def test_command_writes_a_whole_model(hub_folder, data_file, tokenizer, tmp_path, capsys):
    other = TSNModel.from_pretrained(hub_folder)
    other.topic_head.weight.data += 0.5
    write_hub_folder(other, tokenizer, tmp_path / "other")
    finish.main(
        [f"{hub_folder}=1", f"{tmp_path / 'other'}=3"]
        + ["--validation_file", str(data_file), "--output_dir", str(tmp_path / "made")]
    )
    said = json.loads(capsys.readouterr().out)
    made, first = (TSNModel.from_pretrained(folder) for folder in (tmp_path / "made", hub_folder))
    assert made.config.temperatures == said["temperatures"] != first.config.temperatures
    assert torch.allclose(made.topic_head.weight, first.topic_head.weight + 0.375, atol=2e-3)
    outside = first.topic_head.bias[first.config.topic_labels.index("O")] - said["outside_shifts"]["topic"]
    assert made.topic_head.bias[made.config.topic_labels.index("O")].item() == pytest.approx(outside.item(), abs=2e-3)
    assert TSNPipeline(made, tokenizer)(TEXTS[0])["sentiment"]["label"]


@pytest.mark.parametrize("split", [False, True], ids=["one file", "a file for each source"])
def test_of_several_files_the_mean_counts(tokenizer, tmp_path, capsys, split):
    """In one file the source with most spans decides, as it does in what `eval.py` reports; files count alike."""
    model = cautious_model(tokenizer)
    write_hub_folder(model, tokenizer, tmp_path / "model")
    sources = {"large": (1.8, 30), "small": (0.2, 10)}
    rows = [
        row
        for source, (shift, times) in sources.items()
        for row in rows_as_answered(shifted(model, shift, 0), tokenizer, TEXTS * times, source)
    ]
    files = [[row for row in rows if row["source"] == source] for source in sources] if split else [rows]
    paths = [str(tmp_path / f"{i}.jsonl") for i in range(len(files))]
    for path, some in zip(paths, files):
        Path(path).write_text("".join(json.dumps({**row, "split": "validation"}) + "\n" for row in some), "utf-8")
    finish.main([str(tmp_path / "model"), "--validation_file", *paths, "--output_dir", str(tmp_path / "made")])
    fitted = json.loads(capsys.readouterr().out)["outside_shifts"]["topic"]
    values = mean_topic_f1(model, tokenizer, files)
    assert values[fitted] == pytest.approx(max(values.values()))
    assert len({round(value, 6) for value in values.values()}) > 2  # there is something to choose


@pytest.mark.parametrize(
    "checkpoints, message",
    [(["{hub}=much"], "is not CHECKPOINT=SHARE"), (["{hub}=0"], "must be positive"), (["{empty}=1"], "empty")],
)
def test_what_is_wrong_is_said(hub_folder, data_file, tmp_path, checkpoints, message):
    checkpoints = [c.format(hub=hub_folder, empty=tmp_path / "empty") for c in checkpoints]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=message):
        finish.main([*checkpoints, "--validation_file", str(data_file), "--output_dir", str(tmp_path / "made")])
    assert not (tmp_path / "made").exists()
