"""`trainer.py`: each label weighs alike however a step is split, the log, and losses that are not numbers."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import EvalPrediction, set_seed

import train
from configuration_tsn import TSNConfig
from modeling_tsn import LOSSES, TSNModel
from tests.conftest import ROOT, backbone_config, example_rows, make_tokenizer
from tests.training.test_train import options, steps
from tsn.data.annotated import read_rows
from tsn.data.features import IGNORED, TSNCollator, rows_to_features
from tsn.hub.folder import write_hub_folder
from tsn.training.arguments import parse_arguments
from tsn.training.data import load_data
from tsn.training.model import load_model, load_tokenizer
from tsn.training.trainer import NonFiniteLoss, TSNTrainer, check_metric, chunk_metrics

# Adam makes steps of one size of gradients that differ from 0 by rounding alone.
SGD = ["--optim", "sgd", "--learning_rate", "0.3", "--head_learning_rate", "0.3"]
UNCOMMON = "Ω"  # a letter of one row alone


def write_base(folder, poison=None):
    """A TSN model without dropout, so that steps can be split and compared."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([UNCOMMON])
    backbone = backbone_config("bert", len(tokenizer))
    backbone.hidden_dropout_prob = backbone.attention_probs_dropout_prob = 0.0
    set_seed(0)
    model = TSNModel(TSNConfig(backbone_config=backbone, head_dropout=0.0))
    if poison is not None:
        with torch.no_grad():
            model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(UNCOMMON)] = poison
    write_hub_folder(model, tokenizer, folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, base, data_file):
    """Five steps of eight chunks, an epoch and two thirds, in one process at once."""
    out = tmp_path_factory.mktemp("whole")
    train.main([*options(base, data_file, out, *steps(5)), *SGD, "--per_device_train_batch_size", "8"])
    return out


def weights(folder):
    return load_file(folder / "checkpoint-5" / "model.safetensors")


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, atol=2e-5, rtol=1e-4, msg=name)


def test_accumulated_batches_end_in_the_same_weights(tmp_path, whole, base, data_file):
    more = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4"]
    train.main([*options(base, data_file, tmp_path, *steps(5)), *SGD, *more])
    assert_same_weights(weights(whole), weights(tmp_path))
    moved = load_file(base / "model.safetensors")
    assert max((moved[name] - weight).abs().max() for name, weight in weights(whole).items()) > 1e-3


def partly_annotated(folder):
    """Rows of which some have only some types annotated, with targets, as JSON Lines."""
    rows = [{**row, "id": str(i)} for i, row in enumerate(example_rows())]
    rows[2] |= {"entities": rows[2]["entities"][:1], "entity_types": ["PER"]}
    rows[3] |= {"entities": [], "entity_types": ["LOC", "MISC"], "targets": [{"start": 0, "end": 2, "sentiment": 0}]}
    path = folder / "partly.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    return path


def marginal_losses(model, batch):
    """The four mean losses in float64, each word's by enumeration of the tags that its label stands for."""
    with torch.no_grad():
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                       token_type_ids=batch["token_type_ids"])  # fmt: skip
    config, losses = model.config, {}
    for name in LOSSES:
        nats, logits, labels = [], output[f"{name}_logits"].double().numpy(), batch[f"{name}_labels"].numpy()
        for place in np.argwhere(labels != IGNORED):
            x = logits[tuple(place)]
            shares = [math.exp(value - max(x)) for value in x]
            tags = {int(labels[tuple(place)])}
            if name == "ner" and config.ner_labels[min(tags)] == "O":
                annotated = dict(
                    zip(["PER", "LOC", "ORG", "MISC"], batch["annotated_entity_types"][place[0]].tolist())
                )
                tags |= {
                    i for i, tag in enumerate(config.ner_labels) if tag != "O" and not annotated[tag.partition("-")[2]]
                }
            nats.append(-math.log(sum(shares[tag] for tag in tags) / sum(shares)))
        losses[name] = sum(nats) / len(nats)
    return losses


def test_the_loss_of_partly_annotated_rows_is_that_of_what_they_leave_open(tmp_path, base):
    data_file = partly_annotated(tmp_path)
    more = [*steps(1), "--per_device_train_batch_size", "8"]
    evaluated = ["--validation_file", data_file, "--per_device_eval_batch_size", "24", "--eval_on_start", "true"]
    train.main([*options(base, data_file, tmp_path / "out", *more, *evaluated), *SGD])
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    model, tokenizer = TSNModel.from_pretrained(base).eval(), load_tokenizer(base)
    features = rows_to_features(read_rows(data_file, model.config), tokenizer, model.config)
    validation = marginal_losses(model, TSNCollator(tokenizer)(list(features)))
    trainer_arguments = parse_arguments(options(base, data_file, tmp_path / "x", *more))[-1]
    trainer = TSNTrainer(model, trainer_arguments, train_dataset=features, data_collator=TSNCollator(tokenizer))
    set_seed(trainer_arguments.seed)
    first_step = marginal_losses(model.eval(), next(iter(trainer.get_train_dataloader())))
    for prefix, expected in (("", first_step), ("eval_", validation)):
        entry = next(entry for entry in log if f"{prefix}ner_loss" in entry)
        for name in LOSSES:
            assert entry[f"{prefix}{name}_loss"] == pytest.approx(expected[name], abs=1e-4), (prefix, name)
        weighed = sum(model.config.loss_weights[key] * expected[name] for name, key in LOSSES.items())
        assert entry[f"{prefix}loss"] == pytest.approx(weighed, abs=1e-3)


def test_accumulated_batches_of_partly_annotated_rows_end_in_the_same_weights(tmp_path, base):
    data_file = partly_annotated(tmp_path)
    for name, size, accumulated in (("whole", 8, 1), ("parts", 2, 4)):
        more = ["--per_device_train_batch_size", size, "--gradient_accumulation_steps", accumulated]
        train.main([*options(base, data_file, tmp_path / name, *steps(5), *more), *SGD])
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    # What is not annotated must make a difference, or this compares nothing.
    rows = [{**json.loads(line), "entity_types": None} for line in data_file.read_text().splitlines()]
    data_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = ["--per_device_train_batch_size", "8"]
    train.main([*options(base, data_file, tmp_path / "all", *steps(5), *more), *SGD])
    full, partly = weights(tmp_path / "all"), weights(tmp_path / "whole")
    assert (full["ner_head.bias"] - partly["ner_head.bias"]).abs().max() > 1e-3


def test_metrics_count_annotated_types_alone():
    """One row for all types, one for PER alone: a PER is right or wrong there, a LOC is nobody's business."""
    config = TSNConfig(backbone_config=backbone_config("bert", 50))
    tags = config.ner_labels
    gold = [["S-PER", "O", "O", "S-LOC"], ["S-PER", "O", "O", "O"]]
    answers = [["S-PER", "S-LOC", "O", "O"], ["O", "S-PER", "S-LOC", "S-ORG"]]
    labels = np.array([[tags.index(tag) for tag in row] for row in gold])
    logits = np.eye(len(tags), dtype=np.float32)[[[tags.index(tag) for tag in row] for row in answers]] * 9
    nothing = np.full((2, 4), IGNORED)
    prediction = EvalPrediction(
        (np.zeros((2, 4, 5), np.float32), logits, np.zeros((2, 3), np.float32), np.zeros((2, 4, 3), np.float32)),
        (nothing, labels, nothing[:, 0], nothing, np.array([[True] * 4, [True, False, False, False]])),
    )
    metrics = chunk_metrics(config)(prediction)
    # Answers that count: PER and LOC of the first row, PER of the second; one of the three is right, of three gold.
    assert (metrics["ner_precision"], metrics["ner_recall"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (metrics["ner_PER_f1"], metrics["ner_LOC_support"], metrics["ner_rows"]) == (0.5, 1, 2)
    assert "ner_ORG_f1" not in metrics and "topic_f1" not in metrics and "sentiment_accuracy" not in metrics


def test_sentiment_of_spans_is_measured_word_by_word():
    config = TSNConfig(backbone_config=backbone_config("bert", 50))
    classes = np.array([[0, 0, 2, IGNORED]])
    logits = np.eye(3, dtype=np.float32)[[[0, 1, 2, 0]]]
    nothing = np.full((1, 4), IGNORED)
    metrics = chunk_metrics(config)(
        EvalPrediction(
            (np.zeros((1, 4, 5)), np.zeros((1, 4, 17)), np.zeros((1, 3)), logits),
            (nothing, nothing, nothing[:, 0], classes, np.ones((1, 4), bool)),
        )
    )
    assert metrics["topic_sentiment_accuracy"] == pytest.approx(2 / 3)
    # negative: P 1, R 1/2, F1 2/3; positive: F1 1; neutral does not occur.
    assert metrics["topic_sentiment_macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize("name", ["scroe", "ner_MISC_f1", "eval_topic_f2", ""])
def test_a_metric_that_the_data_cannot_give_is_an_error_before_training(tmp_path, base, data_file, name):
    more = ["--validation_file", data_file, *steps(1), "--metric_for_best_model", name]
    with pytest.raises(ValueError, match=r"--metric_for_best_model: .*loss, ner_LOC_f1.*score.*topic_f1"):
        train.main(options(base, data_file, tmp_path / "out", *more))
    assert not list((tmp_path / "out").glob("*"))


def test_metrics_that_are_listed_are_those_of_an_evaluation(tmp_path, base):
    """Every name that the error lists can be chosen."""
    data_file = partly_annotated(tmp_path)
    model, tokenizer = TSNModel.from_pretrained(base), load_tokenizer(base)
    features = rows_to_features(read_rows(data_file, model.config), tokenizer, model.config)
    with pytest.raises(ValueError) as error:
        check_metric("none", features, tokenizer, model.config)
    listed = set(str(error.value).partition("they give ")[2].split(", "))
    arguments = parse_arguments(options(base, data_file, tmp_path / "out", "--validation_file", data_file))[-1]
    trainer = TSNTrainer(model, arguments, data_collator=TSNCollator(tokenizer), eval_dataset=features,
                         compute_metrics=chunk_metrics(model.config))  # fmt: skip
    given = {name.removeprefix("eval_") for name in trainer.evaluate()}
    assert listed <= given and {"loss", "score", "ner_PER_f1", "topic_sentiment_macro_f1"} <= listed
    for name in sorted(listed):
        check_metric(name, features, tokenizer, model.config)
        check_metric(f"eval_{name}", features, tokenizer, model.config)


def launch(count, *arguments, timeout=170):
    # `--multi_gpu` is the launcher for several processes; without MPI, `--cpu` starts one, whatever is asked for.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", str(ROOT / "train.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", [1, 2])
def test_two_processes_end_in_the_same_weights_as_one(tmp_path, whole, base, data_file, accumulated):
    batch = ["--per_device_train_batch_size", str(4 // accumulated)]
    accumulation = ["--gradient_accumulation_steps", str(accumulated)]
    launch(2, *options(base, data_file, tmp_path, *steps(5)), *SGD, *batch, *accumulation)
    assert_same_weights(weights(whole), weights(tmp_path))
    logs = [json.loads((f / "trainer_state.json").read_text())["log_history"] for f in (whole, tmp_path)]
    for one, two in zip(*logs):
        for name in ("loss", *(f"{name}_loss" for name in LOSSES)):
            assert two.get(name) == pytest.approx(one.get(name), abs=2e-4)


def test_log_holds_each_heads_mean_over_its_labels(tmp_path, whole, base, data_file):
    """The first step's, worked out with the model's own losses on the rows of that step."""
    log = json.loads((whole / "trainer_state.json").read_text())["log_history"]
    first = next(entry for entry in log if entry["step"] == 1)
    model_arguments, _, data, training = parse_arguments(
        [*options(base, data_file, tmp_path, *steps(5)), "--per_device_train_batch_size", "8"]
    )
    tokenizer = load_tokenizer(base)
    model = load_model(model_arguments)
    features, _ = load_data(data, tokenizer, model.config)
    trainer = TSNTrainer(model, training, train_dataset=features, data_collator=TSNCollator(tokenizer))
    set_seed(training.seed)
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("row")
    with torch.no_grad():
        output = model(**batch)
    for name in LOSSES:
        assert first[f"{name}_loss"] == pytest.approx(output[f"{name}_loss"].item(), abs=1e-3)
    assert first["loss"] == pytest.approx(output.loss.item(), abs=1e-3)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e38])
def test_a_loss_that_is_no_number_stops_with_step_and_rows(tmp_path, data_file, poison):
    base, data = write_base(tmp_path / "base", poison), tmp_path / "rows.jsonl"
    rows = [{**row, "id": f"good {i}"} for i, row in enumerate(example_rows())]
    bad = {"text": f"The {UNCOMMON} is fine.", "sentiment": "neutral", "id": "the bad one"}
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, bad]))
    more = ["--per_device_train_batch_size", "1", "--max_grad_norm", "1"]
    with pytest.raises(NonFiniteLoss, match=r"(?s)Step (\d+): .*rows\.jsonl, row 7 \(id the bad one\)") as caught:
        train.main([*options(base, data, tmp_path / "out", *steps(7)), *more])
    assert str(caught.value).count(", row ") == 1, "of a step of one row, one is named"
    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        stored = load_file(checkpoint / "model.safetensors")
        poisoned = "backbone.embeddings.word_embeddings.weight"
        assert all(torch.isfinite(w).all() for name, w in stored.items() if name != poisoned)


def test_a_gradient_that_is_no_number_stops_before_the_step(tmp_path, base, data_file):
    model_arguments, _, data, training = parse_arguments(options(base, data_file, tmp_path, *steps(2)))
    tokenizer, model = load_tokenizer(base), load_model(model_arguments)
    features, _ = load_data(data, tokenizer, model.config)
    trainer = TSNTrainer(model, training, train_dataset=features, data_collator=TSNCollator(tokenizer))
    model.topic_head.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(
        NonFiniteLoss, match=r"Step 1: the norm of the gradient is nan.*(\n  .*examples\.jsonl, row \d+){1,4}$"
    ):
        trainer.train()
    assert all(torch.isfinite(weight).all() for weight in model.state_dict().values())


def test_validation_losses_are_means_over_labels(tmp_path, base, data_file):
    more = ["--validation_file", data_file, *steps(1), "--learning_rate", "0", "--head_learning_rate", "0"]
    train.main([*options(base, data_file, tmp_path, *more), "--per_device_eval_batch_size", "5"])
    log = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    found = next(entry for entry in log if "eval_topic_loss" in entry)
    model, tokenizer = TSNModel.from_pretrained(base).eval(), load_tokenizer(base)
    arguments, _, data, training = parse_arguments(options(base, data_file, tmp_path, *steps(1)))
    features, _ = load_data(data, tokenizer, model.config)
    batch = TSNCollator(tokenizer)(list(features))
    batch.pop("row")
    with torch.no_grad():
        output = model(**batch)
    for name in LOSSES:
        assert found[f"eval_{name}_loss"] == pytest.approx(output[f"{name}_loss"].item(), abs=1e-4)
    assert np.isfinite(found["eval_loss"])
