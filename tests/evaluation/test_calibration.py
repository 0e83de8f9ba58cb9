"""`tsn/evaluation/calibration.py`: expected calibration error, reliability, and temperatures."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configuration_tsn import TASKS, TSNConfig
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import example_rows, make_model, make_tokenizer
from tsn.data.annotated import COLUMNS
from tsn.data.features import rows_to_features
from tsn.evaluation import calibration
from tsn.evaluation.calibration import expected_calibration_error, fit_temperatures, reliability

TYPES = ("PER", "LOC", "ORG", "MISC")
ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(ANSWERS, st.integers(1, 20))
def test_error_is_that_of_the_definition(answers, bins):
    """Naeini et al.: the sum over bins of their share of the answers times the gap of accuracy and confidence."""
    scores, correct = zip(*answers)
    expected = 0.0
    for i in range(bins):
        inside = [(s, c) for s, c in answers if int(s * bins) == i or (s == 1 and i == bins - 1)]
        if inside:
            gap = sum(c for _, c in inside) / len(inside) - sum(s for s, _ in inside) / len(inside)
            expected += len(inside) / len(answers) * abs(gap)
    assert expected_calibration_error(scores, correct, bins) == pytest.approx(expected, abs=1e-9)


@given(ANSWERS)
def test_bins_hold_every_answer_once(answers):
    scores, correct = zip(*answers)
    found = reliability(scores, correct)
    assert sum(b["count"] for b in found) == len(answers)
    assert sum(b["accuracy"] * b["count"] for b in found) == pytest.approx(sum(correct))
    assert [b["score"] for b in found] == sorted(b["score"] for b in found)


def test_no_answers_have_no_error():
    assert expected_calibration_error([], []) == 0 and reliability([], []) == []


def _features(config):
    tokenizer = make_tokenizer()
    rows = [{**dict.fromkeys(COLUMNS), "source": "s", "row": "r", **row} for row in example_rows() * 8]
    return tokenizer, rows_to_features(rows, tokenizer, config)


def test_fitted_temperatures_undo_a_scaling_of_the_logits():
    """Heads that are k times as sure have a temperature k times as high: the log loss is the same function."""
    tokenizer = make_tokenizer()
    sure, surer = (make_model("bert", len(tokenizer)) for _ in range(2))
    surer.sentiment_head.weight.data *= 1.5
    surer.sentiment_head.bias.data *= 1.5
    _, features = _features(sure.config)
    answers = TSNPipeline(sure, tokenizer)([row["text"] for row in example_rows()] * 8)
    best = [sure.config.sentiment_labels.index(answer["sentiment"]["label"]) for answer in answers]
    # Right in three of four: some temperature fits neither none nor all.
    labels = [label if i % 4 else (label + 1) % 3 for i, label in enumerate(best)]
    features = features.remove_columns("sentiment_labels").add_column("sentiment_labels", labels)
    one, other = (fit_temperatures(model, tokenizer, features) for model in (sure, surer))
    assert set(one) == set(TASKS) and 0.25 < one["sentiment"] < 6  # inside the range that is searched
    assert other["sentiment"] == pytest.approx(1.5 * one["sentiment"], rel=0.02)
    assert (other["topic"], other["ner"]) == (one["topic"], one["ner"])


def test_temperature_minimises_the_log_loss_of_the_pipelines_scores():
    """Worked out through the public pipeline, on sentiment, whose score is that of one chunk."""
    model = make_model("bert", len(make_tokenizer()))
    tokenizer, features = _features(model.config)
    fitted = fit_temperatures(model, tokenizer, features)["sentiment"]
    rows = [row for row in example_rows() if row.get("sentiment")]

    def log_loss(temperature):
        model.config.temperatures = {**dict.fromkeys(TASKS, 1.0), "sentiment": temperature}
        answers = TSNPipeline(model, tokenizer)([row["text"] for row in rows])
        found = [(a["sentiment"]["score"], a["sentiment"]["label"] == r["sentiment"]) for a, r in zip(answers, rows)]
        return -np.mean([np.log(s if right else 1 - s) for s, right in found])

    assert log_loss(fitted) <= min(log_loss(t) for t in np.geomspace(0.2, 10, 25)) + 1e-4


def test_temperature_changes_scores_and_no_answer(pipe, tokenizer):
    """The scores are those of heads whose weights are divided by the temperature."""
    texts = [row["text"] for row in example_rows()]
    temperatures = {"topic": 3.0, "ner": 2.0, "sentiment": 0.5}
    model = make_model("bert", len(tokenizer))
    for task, temperature in temperatures.items():
        head = getattr(model, f"{task}_head")
        head.weight.data /= temperature
        head.bias.data /= temperature
    scaled = TSNPipeline(make_model("bert", len(tokenizer), temperatures=temperatures), tokenizer)(texts)
    for plain, found, expected in zip(pipe(texts), scaled, TSNPipeline(model, tokenizer)(texts)):
        for name in ("topics", "entities"):
            answers, same = ([{**s, "score": 0, "sentiment_score": 0} for s in side[name]] for side in (plain, found))
            assert answers == same
            for score in ("score", "sentiment_score") if name == "topics" else ("score",):
                scores, others = ([span[score] for span in side[name]] for side in (found, expected))
                assert scores == pytest.approx(others, abs=1e-5)
        assert plain["sentiment"]["label"] == found["sentiment"]["label"]
        assert found["sentiment"]["scores"] == pytest.approx(expected["sentiment"]["scores"], abs=1e-5)


@pytest.mark.parametrize("temperatures", [dict.fromkeys(TASKS, 1.0), {"topic": 1.9, "ner": 0.7, "sentiment": 1.3}])
@pytest.mark.parametrize("head, column", zip(TASKS, ("topics", "entities", "sentiment")))
def test_heads_without_labels_keep_theirs(temperatures, head, column):
    model, tokenizer = make_model("bert", len(make_tokenizer()), temperatures=temperatures), make_tokenizer()
    rows = [{**dict.fromkeys(COLUMNS), **row} for row in example_rows()]
    kept = dict.fromkeys({"topics", "entities", "sentiment"} - {column})
    rows = [{**row, **kept, "source": "s", "row": "r"} for row in rows]
    fitted = fit_temperatures(model, tokenizer, rows_to_features(rows, tokenizer, model.config))
    assert {**fitted, head: None} == {**temperatures, head: None} and fitted[head] != temperatures[head]


def test_data_without_labels_are_an_error():
    model, tokenizer = make_model("bert", len(make_tokenizer())), make_tokenizer()
    row = {**dict.fromkeys(COLUMNS), "text": "Fine.", "source": "s", "row": "r"}
    target = {**row, "targets": [{"start": 0, "end": 4, "sentiment": "positive"}]}  # of no head that is calibrated
    for rows in ([row], [target], []):
        with pytest.raises(ValueError, match="to calibrate on"):
            fit_temperatures(model, tokenizer, rows_to_features(rows, tokenizer, model.config))


def test_only_annotated_types_count():
    """The log loss of the pipeline's entities of annotated types alone has its minimum at the temperature."""
    tokenizer = make_tokenizer()
    model = make_model("bert", len(tokenizer))
    texts = [row["text"] for row in example_rows()]
    rows = []
    for i, (text, answer) in enumerate(zip(texts, TSNPipeline(model, tokenizer)(texts))):
        types = [["PER", "LOC"], ["ORG"], None][i % 3]
        spans = [e for j, e in enumerate(answer["entities"]) if j % 3 and e["entity_group"] in (types or TYPES)]
        spans = [{"start": e["start"], "end": e["end"], "label": e["entity_group"]} for e in spans]
        rows.append({**dict.fromkeys(COLUMNS), "text": text, "entities": spans, "entity_types": types,
                     "source": "s", "row": "r"})  # fmt: skip

    def log_loss(temperature, count_all=False):
        model.config.temperatures = {**dict.fromkeys(TASKS, 1.0), "ner": temperature}
        nats = []
        for row, answer in zip(rows, TSNPipeline(model, tokenizer)(texts)):
            gold = {(span["start"], span["end"], span["label"]) for span in row["entities"]}
            for entity in answer["entities"]:
                if count_all or entity["entity_group"] in (row["entity_types"] or TYPES):
                    right = (entity["start"], entity["end"], entity["entity_group"]) in gold
                    nats.append(-np.log(entity["score"] if right else 1 - entity["score"]))
        return np.mean(nats)

    fitted = fit_temperatures(model, tokenizer, rows_to_features(rows, tokenizer, model.config))["ner"]
    grid = np.geomspace(0.2, 10, 40)
    best, with_all = (grid[np.argmin([log_loss(t, everything) for t in grid])] for everything in (False, True))
    assert abs(np.log(with_all / best)) > 0.2, "else the types make no difference here"
    assert log_loss(fitted) <= log_loss(best) + 1e-4


def test_command_changes_the_configuration_alone(tmp_path, hub_folder, data_file, capsys):
    folder = tmp_path / "model"
    shutil.copytree(hub_folder, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    calibration.main([str(folder), str(data_file)])
    printed = json.loads(capsys.readouterr().out)
    changed = {name for name, content in before.items() if (folder / name).read_bytes() != content}
    assert changed == {"config.json"}
    assert TSNConfig.from_pretrained(folder).temperatures == printed != dict.fromkeys(TASKS, 1.0)
    values = json.loads(before["config.json"])
    assert json.loads((folder / "config.json").read_text()) == {**values, "temperatures": printed}
    assert TSNModel.from_pretrained(folder).config.temperatures == printed


def test_command_leaves_the_configuration_alone_without_labels(tmp_path, hub_folder):
    folder, data = tmp_path / "model", tmp_path / "bare.jsonl"
    shutil.copytree(hub_folder, folder)
    data.write_text('{"text": "Fine.", "label": "positive"}\n')
    before = (folder / "config.json").read_bytes()
    with pytest.raises(SystemExit, match="bare.jsonl: the data have no labels to calibrate on"):
        calibration.main([str(folder), str(data)])
    assert (folder / "config.json").read_bytes() == before


def test_command_names_what_is_wrong(tmp_path, hub_folder):
    with pytest.raises(SystemExit, match="nowhere"):
        calibration.main([str(tmp_path / "nowhere"), "x.jsonl"])
    with pytest.raises(SystemExit, match="no such file"):
        calibration.main([str(hub_folder), str(tmp_path / "x.jsonl")])
