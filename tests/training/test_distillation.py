"""`distillation.py`: fewer layers, and a model that learns what another one says."""

import json

import numpy as np
import pytest
import torch
from transformers import set_seed

import train
from configuration_tsn import TSNConfig
from modeling_tsn import LOSSES, TSNModel
from tests.conftest import TEXTS, backbone_config, make_model, make_tokenizer
from tests.training.test_train import options, steps
from tests.training.test_trainer import SGD, assert_same_weights, weights
from tsn.data.annotated import read_rows
from tsn.data.features import TSNCollator, rows_to_features
from tsn.hub.folder import write_hub_folder
from tsn.training.distillation import SOFT_LOSSES, TEMPERATURE, keep_layers
from tsn.training.model import load_tokenizer


def write_model(folder, layers=4, seed=0, **config):
    """A TSN model without dropout, with heads that have something to say."""
    tokenizer = make_tokenizer()
    backbone = backbone_config("bert", len(tokenizer))
    backbone.num_hidden_layers, backbone.initializer_range = layers, 0.2  # so that each layer matters
    backbone.hidden_dropout_prob = backbone.attention_probs_dropout_prob = 0.0
    set_seed(seed)
    model = TSNModel(TSNConfig(backbone_config=backbone, head_dropout=0.0, **config))
    for name in model.HEADS:
        if hasattr(model, name):
            torch.nn.init.normal_(getattr(model, name).weight, std=0.5)
    write_hub_folder(model, tokenizer, folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 3))
    return path


def log_of(folder):
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize(("total", "count", "kept"), [(12, 6, [0, 2, 4, 7, 9, 11]), (4, 2, [0, 3]), (3, 3, [0, 1, 2])])
@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_layers_that_are_kept_are_evenly_spaced_with_first_and_last(name, total, count, kept):
    config = backbone_config(name, 50)
    config.num_hidden_layers = total
    model = TSNModel(TSNConfig(backbone_config=config))
    before = [v for k, v in model.state_dict().items() if k.endswith(("q_lin.weight", "query.weight"))]
    keep_layers(model, count)
    after = [v for k, v in model.state_dict().items() if k.endswith(("q_lin.weight", "query.weight"))]
    assert [next(i for i, w in enumerate(before) if torch.equal(w, v)) for v in after] == kept
    again = TSNModel(TSNConfig.from_dict(model.config.to_dict()))
    again.load_state_dict(model.state_dict())
    ids = torch.arange(5, 15)[None]  # (1, tokens)
    with torch.no_grad():
        one, other = model.eval()(input_ids=ids), again.eval()(input_ids=ids)
    torch.testing.assert_close(one.topic_logits, other.topic_logits)


@pytest.mark.parametrize("count", [0, 3])
def test_a_number_of_layers_that_there_is_not_is_refused(count):
    with pytest.raises(ValueError, match="from 1 to the 2 layers"):
        keep_layers(make_model(), count)


def divergence(student, teacher):
    """KL(teacher || student) of each row at the temperature, times its square, in float64."""

    def softened(values):
        shares = np.exp(values.double().numpy() / TEMPERATURE)
        return shares / shares.sum(-1, keepdims=True)

    q, p = softened(student), softened(teacher)
    return (p * np.log(p / q)).sum(-1) * TEMPERATURE**2


def test_the_log_has_what_was_learned_of_the_teacher(tmp_path, teacher, data_file):
    """The first step's losses against an independent computation, and their sum."""
    student = write_model(tmp_path / "student", layers=2, seed=1)
    more = ["--teacher", teacher, "--per_device_train_batch_size", "200", "--num_train_epochs", 1]
    train.main([*options(student, data_file, tmp_path / "out", *steps(1), *more), *SGD])
    entry = next(entry for entry in log_of(tmp_path / "out") if "token_loss" in entry)
    ours, theirs = (TSNModel.from_pretrained(folder).eval() for folder in (student, teacher))
    tokenizer = load_tokenizer(student)
    batch = TSNCollator(tokenizer)(list(rows_to_features(read_rows(data_file, ours.config), tokenizer, ours.config)))
    inputs = {name: batch[name] for name in tokenizer.model_input_names}
    with torch.no_grad():
        one, other = (model(**inputs, output_hidden_states=True) for model in (ours, theirs))
    real, weights = batch["attention_mask"].bool(), ours.config.loss_weights
    heads = {"topic_logits": "topic", "ner_logits": "ner", "topic_sentiment_logits": "sentiment"}
    expected = {
        "token": sum(
            weights[key] * divergence(one[name][real], other[name][real]).mean() for name, key in heads.items()
        ),
        "text": divergence(one.sentiment_logits, other.sentiment_logits).mean(),
    }
    a, b = (output.hidden_states[-1][real].double().numpy() for output in (one, other))
    expected["hidden"] = (np.square(a - b).sum(-1) / np.square(b).sum(-1)).mean()
    for name, value in expected.items():
        assert entry[f"{name}_loss"] == pytest.approx(value, rel=1e-3), name
        assert value > 0.01
    losses = {"topic": "topic", "ner": "ner", "sentiment": "sentiment", "topic_sentiment": "sentiment"}
    hard = sum(weights[losses[name]] * entry[f"{name}_loss"] for name in LOSSES)
    soft = sum(share * expected[name] for name, share in SOFT_LOSSES.items())
    assert entry["loss"] == pytest.approx(hard + soft, rel=1e-3)


def test_a_model_has_nothing_to_learn_of_itself(tmp_path, teacher, data_file):
    train.main([*options(teacher, data_file, tmp_path, *steps(1), "--teacher", teacher), *SGD])
    entry = next(entry for entry in log_of(tmp_path) if "token_loss" in entry)
    assert entry["token_loss"] == entry["text_loss"] == entry["hidden_loss"] == 0


def test_texts_without_labels_bring_half_the_layers_near_the_teacher(tmp_path, teacher, unlabelled):
    more = ["--teacher", teacher, "--num_layers", 2, "--head_learning_rate", "3e-3", "--learning_rate", "3e-3"]
    train.main(options(teacher, unlabelled, tmp_path, *steps(60, 60), *more, "--lr_scheduler_type", "constant"))
    assert TSNModel.from_pretrained(tmp_path).config.backbone_config.num_hidden_layers == 2
    losses = [entry for entry in log_of(tmp_path) if "token_loss" in entry]
    for name in ("token", "hidden"):
        assert losses[-1][f"{name}_loss"] < 0.5 * losses[0][f"{name}_loss"], name
    assert "topic_loss" not in losses[0]


def test_accumulated_batches_end_in_the_same_weights(tmp_path, teacher, data_file):
    for name, size, accumulated in (("whole", 8, 1), ("parts", 2, 4)):
        more = ["--per_device_train_batch_size", size, "--gradient_accumulation_steps", accumulated]
        more += ["--teacher", teacher, "--num_layers", 2]
        train.main([*options(teacher, data_file, tmp_path / name, *steps(5), *more), *SGD])
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_a_teacher_of_another_width_teaches_by_its_answers(tmp_path, data_file):
    backbone = backbone_config("bert", len(make_tokenizer()))
    backbone.hidden_size = 2 * backbone.hidden_size
    write_hub_folder(TSNModel(TSNConfig(backbone_config=backbone)), make_tokenizer(), tmp_path / "wide", torch.float32)
    student = write_model(tmp_path / "student", layers=2)
    train.main(options(student, data_file, tmp_path / "out", *steps(1), "--teacher", tmp_path / "wide"))
    entry = next(entry for entry in log_of(tmp_path / "out") if "token_loss" in entry)
    assert entry["hidden_loss"] == 0 < entry["token_loss"]


def test_a_teacher_with_other_labels_is_refused(tmp_path, teacher, data_file):
    other = write_model(tmp_path / "other", ner_labels=["O", "PER"], ner_scheme="IO")
    with pytest.raises(ValueError, match="teacher has other ner_labels"):
        train.main(options(teacher, data_file, tmp_path / "out", *steps(1), "--teacher", other))


@pytest.mark.parametrize("more", [["--teacher", "x"], ["--num_layers", "2"]])
def test_an_adapter_is_not_distilled(tmp_path, teacher, data_file, more, capsys):
    with pytest.raises(SystemExit):
        train.main(options(teacher, data_file, tmp_path, "--lora", *more))
    assert f"--lora cannot go with {more[0]}" in capsys.readouterr().err


def test_without_a_teacher_nothing_annotated_is_an_error(tmp_path, teacher, unlabelled):
    with pytest.raises(ValueError, match="nothing is annotated"):
        train.main(options(teacher, unlabelled, tmp_path, *steps(1)))
