"""`topic_head.py`: what the head is fitted on, that it is the best there is, and that nothing else changes."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from modeling_tsn import TSNModel
from tests.conftest import example_rows, make_model, make_tokenizer
from tsn.data.annotated import COLUMNS
from tsn.data.features import rows_to_features
from tsn.training import topic_head
from tsn.training.topic_head import fit_head, topic_states


def test_states_are_means_over_the_words_of_topics():
    tokenizer = make_tokenizer()
    model = make_model("bert", len(tokenizer))
    text, places = "the battery life and screen", [(4, 16, "negative"), (21, 27, "positive")]
    row = {"text": text, "topics": [{"start": a, "end": b, "sentiment": s} for a, b, s in places], "entities": None}
    row |= {**dict.fromkeys(("sentiment", "language", "targets", "entity_types")), "source": "s", "row": "r"}
    adjacent = {**row, "topics": [*row["topics"], {"start": 17, "end": 20, "sentiment": "positive"}]}
    adjacent["topics"].sort(key=lambda topic: topic["start"])
    features = rows_to_features([row, {**row, "topics": []}, adjacent], tokenizer, model.config)
    states, classes = topic_states(model, tokenizer, features, batch_size=2)
    encoding = tokenizer(text, return_offsets_mapping=True)
    with torch.no_grad():
        hidden = model.backbone(torch.tensor([encoding["input_ids"]])).last_hidden_state[0].double()
    at = {text[a:]: hidden[i] for i, (a, b) in enumerate(encoding["offset_mapping"]) if b > a}
    battery, life, and_, screen = (at[text[text.index(word) :]] for word in ("battery", "life", "and", "screen"))
    expected = [(battery + life) / 2, screen, (battery + life) / 2, and_, screen]
    torch.testing.assert_close(states, torch.stack(expected), atol=1e-5, rtol=0)
    assert classes.tolist() == [0, 2, 0, 2, 2]


def test_targets_are_no_topics():
    """Their words have a sentiment, too, but belong to no topic: neither alone nor behind or upon one."""
    tokenizer = make_tokenizer()
    model = make_model("bert", len(tokenizer))
    text = "the battery life and screen"
    row = {**dict.fromkeys(COLUMNS), "text": text, "source": "s", "row": "r"}
    row["topics"] = [{"start": 4, "end": 16, "sentiment": "negative"}]
    target = [{"start": 17, "end": 27, "sentiment": "positive"}]
    rows = [row, {**row, "targets": target}, {**row, "topics": None, "targets": target}]
    states, classes = topic_states(model, tokenizer, rows_to_features(rows, tokenizer, model.config), batch_size=2)
    assert classes.tolist() == [0, 0]
    torch.testing.assert_close(states[0], states[1], atol=1e-6, rtol=0)


def test_two_classes_are_fitted_as_by_a_softmax():
    """scikit-learn has one weight vector for two classes; the softmax of two, by scipy, has the same answers."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(50, 3))
    y = (x[:, 0] + generator.normal(size=50) > 0).astype(int) * 2  # class 1 does not occur
    z = (x - x.mean(0)) / x.std(0, ddof=1)

    def loss(flat):
        logits = z @ flat[:6].reshape(2, 3).T + flat[6:]
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -logs[range(50), y // 2].mean() + 0.05 / 2 * (flat[:6] ** 2).sum()

    best = minimize(loss, np.zeros(8), tol=1e-12).x
    weight, bias = fit_head(torch.tensor(x), torch.tensor(y), 3, 0.05)
    logits, expected = (torch.tensor(x) @ weight.T + bias).numpy(), z @ best[:6].reshape(2, 3).T + best[6:]
    np.testing.assert_allclose(logits[:, 2] - logits[:, 0], expected[:, 1] - expected[:, 0], atol=2e-3)
    assert (logits[:, 1] < logits[:, [0, 2]].min(1)).all()
    with pytest.raises(ValueError, match="class"):
        fit_head(torch.tensor(x), torch.zeros(50, dtype=torch.long), 3, 0.05)


def test_the_fit_is_the_minimum_that_scipy_finds():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 4)) * [1, 5, 0.2, 1] + 3
    y = (x[:, 0] + generator.normal(size=60) > 3).astype(int) + (x[:, 1] > 5)
    z = (x - x.mean(0)) / x.std(0, ddof=1)

    def loss(flat):
        logits = z @ flat[:12].reshape(3, 4).T + flat[12:]
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -logs[range(60), y].mean() + 0.05 / 2 * (flat[:12] ** 2).sum()

    best = minimize(loss, np.zeros(15), tol=1e-12).x
    weight, bias = fit_head(torch.tensor(x), torch.tensor(y), 3, 0.05)
    found, expected = torch.tensor(x) @ weight.T + bias, z @ best[:12].reshape(3, 4).T + best[12:]
    centred = expected - expected.mean(1, keepdims=True)  # a constant more for all classes is the same answer
    np.testing.assert_allclose(found - found.mean(1, keepdim=True), centred, atol=2e-3)


def test_nothing_else_changes(hub_folder, data_file, tmp_path, capsys):
    files = ["--train_file", str(data_file), "--validation_file", str(data_file)]
    topic_head.main([str(hub_folder), *files, "--output_dir", str(tmp_path / "new")])
    assert "log_loss" in capsys.readouterr().out
    old, new = TSNModel.from_pretrained(hub_folder).eval(), TSNModel.from_pretrained(tmp_path / "new").eval()
    assert new.config.topic_sentiment_head and not old.config.topic_sentiment_head
    before, after = old.state_dict(), new.state_dict()
    assert set(after) - set(before) == {"topic_sentiment_head.weight", "topic_sentiment_head.bias"}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # On what it was fitted on it is right: the positive screen and the negative battery life of one sentence.
    row = next(row for row in example_rows() if any("sentiment" in topic for topic in row.get("topics", [])))
    full = {**dict.fromkeys(COLUMNS), "row": "r", **row}
    tokenizer = make_tokenizer()
    states, classes = topic_states(new, tokenizer, rows_to_features([full], tokenizer, new.config))
    assert new.topic_sentiment_head(states.float()).argmax(-1).tolist() == classes.tolist() == [2, 0]


def test_data_without_such_topics(hub_folder, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Fine.", "topics": []}\n')
    files = ["--train_file", str(path), "--validation_file", str(path), "--output_dir", str(tmp_path / "new")]
    with pytest.raises(SystemExit, match="no topic in the data has a sentiment"):
        topic_head.main([str(hub_folder), *files])
