"""`trainer.py`: each label weighs alike however a step is split, the log, and losses that are not numbers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

import train
from configuration_tsn import TSNConfig
from modeling_tsn import LOSSES, TSNModel
from tests.conftest import ROOT, backbone_config, example_rows, make_tokenizer
from tests.training.test_train import options, steps
from tsn.hub.folder import write_hub_folder
from tsn.training import run
from tsn.training.arguments import parse_arguments
from tsn.training.trainer import NonFiniteLoss

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
    training.eval_strategy, training.load_best_model_at_end, training.remove_unused_columns = "no", False, False
    tokenizer = run.load_tokenizer(base)
    model = run.load_model(model_arguments)
    features, _ = run.load_data(data, training, tokenizer, model.config)
    trainer = run.TSNTrainer(model, training, train_dataset=features, data_collator=run.TSNCollator(tokenizer))
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
    training.eval_strategy, training.load_best_model_at_end, training.remove_unused_columns = "no", False, False
    tokenizer, model = run.load_tokenizer(base), run.load_model(model_arguments)
    features, _ = run.load_data(data, training, tokenizer, model.config)
    trainer = run.TSNTrainer(model, training, train_dataset=features, data_collator=run.TSNCollator(tokenizer))
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
    model, tokenizer = TSNModel.from_pretrained(base).eval(), run.load_tokenizer(base)
    arguments, _, data, training = parse_arguments(options(base, data_file, tmp_path, *steps(1)))
    features, _ = run.load_data(data, training, tokenizer, model.config)
    batch = run.TSNCollator(tokenizer)(list(features))
    batch.pop("row")
    with torch.no_grad():
        output = model(**batch)
    for name in LOSSES:
        assert found[f"eval_{name}_loss"] == pytest.approx(output[f"{name}_loss"].item(), abs=1e-4)
    assert np.isfinite(found["eval_loss"])
