"""train.py end to end on a tiny encoder: what it writes, resuming, several processes, options."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train
from configuration_tsn import TASKS, TSNConfig
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import ROOT, TEXTS, make_model, make_tokenizer
from tsn.data.annotated import read_rows
from tsn.data.features import rows_to_features
from tsn.evaluation.calibration import fit_temperatures
from tsn.training.arguments import parse_arguments
from tsn.training.checkpoints import find_checkpoint
from tsn.training.model import load_model, load_tokenizer, set_dropout
from tsn.training.trainer import TSNTrainer


def options(backbone, data, out, *more):
    fixed = ["--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--logging_steps", "1"]
    quiet = ["--use_cpu", "--disable_tqdm", "true", "--save_strategy", "steps", "--eval_strategy", "steps"]
    files = ["--backbone", str(backbone), "--train_file", str(data), "--output_dir", str(out)]
    return [*files, *fixed, *quiet, *map(str, more)]


def steps(n, every=1):
    return ["--max_steps", n, "--save_steps", every, "--eval_steps", every]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, backbone_folder, data_file):
    """Four steps with an evaluation and a checkpoint after every second."""
    out = tmp_path_factory.mktemp("trained")
    train.main(options(backbone_folder, data_file, out, "--validation_file", data_file, *steps(4, 2)))
    return out


def test_one_step_moves_encoder_and_heads(tmp_path, backbone_folder, data_file):
    train.main(options(backbone_folder, data_file, tmp_path, *steps(1)))
    before = load_file(backbone_folder / "model.safetensors")
    after = TSNModel.from_pretrained(tmp_path).state_dict()
    moved = {n for n, w in before.items() if f"backbone.{n}" in after and not torch.equal(w, after[f"backbone.{n}"])}
    assert "embeddings.word_embeddings.weight" in moved and "encoder.layer.0.attention.self.query.weight" in moved


def test_heads_have_their_own_learning_rate(tmp_path, backbone_folder, data_file):
    more = ["--head_learning_rate", "0.5", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    arguments = options(backbone_folder, data_file, tmp_path, *more)
    model_arguments, *_, training = parse_arguments(arguments)
    model = load_model(model_arguments)
    optimizer = TSNTrainer(model, training).create_optimizer()
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rate[id(parameter)] == (0.5 if "_head." in name else 1e-3), name
        assert decay[id(parameter)] == (0.0 if "bias" in name or "LayerNorm" in name else 0.01), name


def test_output_is_a_complete_hub_folder(trained):
    names = {path.name for path in trained.iterdir()}
    for name in ("configuration_tsn.py", "modeling_tsn.py", "tagging_tsn.py", "chunking_tsn.py", "pipeline_tsn.py"):
        assert (trained / name).read_bytes() == (ROOT / name).read_bytes()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt")) for name in names)
    assert {w.dtype for w in load_file(trained / "model.safetensors").values()} == {torch.float16}
    config = json.loads((trained / "config.json").read_text())
    assert (
        config["dtype"] == "float32" and "auto_map" in config and "topic-sentiment-ner" in config["custom_pipelines"]
    )
    assert not [path for path in trained.glob("*.json") if str(trained.parent) in path.read_text()]


def test_evaluation_reports_loss_and_metrics_of_every_head(trained):
    log = json.loads((trained / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in log if "eval_score" in entry]
    assert [entry["step"] for entry in evaluations] == [2, 4]
    for name in ("eval_loss", "eval_topic_f1", "eval_ner_f1", "eval_sentiment_macro_f1"):
        assert all(np.isfinite(entry[name]) for entry in evaluations)


def test_best_checkpoint_is_written(trained):
    state = json.loads((trained / "trainer_state.json").read_text())
    best = load_file(trained / state["best_model_checkpoint"] / "model.safetensors")
    written = load_file(trained / "model.safetensors")
    assert all(torch.equal(written[name], weight.half()) for name, weight in best.items())


def test_resumed_run_ends_with_the_same_weights(tmp_path, trained, backbone_folder, data_file):
    shutil.copytree(trained / "checkpoint-2", tmp_path / "checkpoint-2")
    more = ["--validation_file", data_file, *steps(4, 2), "--resume_from_checkpoint", "last"]
    train.main(options(backbone_folder, data_file, tmp_path, *more))
    resumed, whole = (load_file(folder / "checkpoint-4" / "model.safetensors") for folder in (tmp_path, trained))
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_resuming_without_a_checkpoint_says_so(tmp_path, backbone_folder, data_file):
    with pytest.raises(ValueError, match="no checkpoint in"):
        train.main(options(backbone_folder, data_file, tmp_path, *steps(1), "--resume_from_checkpoint", "last"))


def test_learns_the_examples(tmp_path, backbone_folder, data_file):
    """A model that cannot learn six sentences by heart is wired wrongly."""
    more = [*steps(120, 120), "--head_learning_rate", "1e-2", "--learning_rate", "3e-3", "--loss_weights", 1, 1, 1]
    train.main(options(backbone_folder, data_file, tmp_path, *more))
    pipe = TSNPipeline(TSNModel.from_pretrained(tmp_path), make_tokenizer())
    found = pipe(TEXTS[:3])
    assert [topic["word"] for topic in found[1]["topics"]] == ["screen", "battery life"]
    assert [(e["entity_group"], e["word"]) for e in found[0]["entities"]] == [
        ("ORG", "Apple Pay"),
        ("LOC", "Colombia"),
    ]
    assert [found[0]["sentiment"]["label"], found[1]["sentiment"]["label"]] == ["positive", "negative"]


def test_trains_a_tsn_model_further(tmp_path, trained, data_file):
    train.main(options(trained, data_file, tmp_path, *steps(1), "--loss_weights", 1, 1, 1))
    assert TSNModel.from_pretrained(tmp_path).config.loss_weights == {"topic": 1.0, "ner": 1.0, "sentiment": 1.0}
    with pytest.raises(ValueError, match="pooling"):
        train.main(options(trained, data_file, tmp_path, *steps(1), "--pooling", "cls"))


def test_own_entity_types_and_scheme(tmp_path, backbone_folder):
    row = {"text": TEXTS[0], "entities": [{"start": 0, "end": 9, "label": "PRODUCT"}]}
    data = tmp_path / "products.jsonl"
    data.write_text(json.dumps(row) + "\n")
    more = ["--entity_types", "PRODUCT", "PLACE", "--ner_scheme", "IO", "--chunk_words", 20]
    train.main(options(backbone_folder, data, tmp_path / "out", *steps(1), *more))
    config = TSNConfig.from_pretrained(tmp_path / "out")
    assert (config.ner_labels, config.ner_scheme, config.chunk_words) == (["O", "PRODUCT", "PLACE"], "IO", 20)


def test_early_stopping(tmp_path, backbone_folder, data_file, capsys):
    more = ["--validation_file", data_file, *steps(30), "--early_stopping_patience", 2, "--learning_rate", 0]
    train.main(options(backbone_folder, data_file, tmp_path, *more, "--head_learning_rate", 0))
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 3
    with pytest.raises(SystemExit):
        train.main(options(backbone_folder, data_file, tmp_path, *steps(1), "--early_stopping_patience", 2))
    assert "--early_stopping_patience needs a --validation_file" in capsys.readouterr().err


def test_learning_curves_are_drawn(trained):
    assert matplotlib.image.imread(trained / "learning_curves.png").shape[0] > 200


def test_scores_are_calibrated_on_the_validation_data(trained, data_file):
    found = TSNConfig.from_pretrained(trained).temperatures
    assert found != dict.fromkeys(TASKS, 1.0) and all(0.2 <= t <= 10 for t in found.values())
    assert found == json.loads((trained / "config.json").read_text())["temperatures"]
    model, tokenizer = TSNModel.from_pretrained(trained), load_tokenizer(trained)
    features = rows_to_features(read_rows(data_file, model.config), tokenizer, model.config)
    assert fit_temperatures(model, tokenizer, features) == pytest.approx(found, rel=0.02)  # fp16 weights


def test_cut_short_checkpoints_are_passed_over(tmp_path, trained, backbone_folder, data_file):
    for step in (2, 4):
        shutil.copytree(trained / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:-9])
    (tmp_path / "checkpoint-30").mkdir()
    last = options(backbone_folder, data_file, tmp_path, *steps(4, 2), "--resume_from_checkpoint", "last")
    *_, training = parse_arguments(last)
    assert Path(find_checkpoint(training.resume_from_checkpoint, training.output_dir)).name == "checkpoint-2"
    train.main([*last, "--validation_file", str(data_file)])
    resumed, whole = (load_file(folder / "checkpoint-4" / "model.safetensors") for folder in (tmp_path, trained))
    assert {n: (resumed[n] - w).abs().max().item() for n, w in whole.items() if not torch.equal(resumed[n], w)} == {}
    named = options(
        backbone_folder, data_file, tmp_path, *steps(4), "--resume_from_checkpoint", tmp_path / "checkpoint-30"
    )
    with pytest.raises(ValueError, match="checkpoint-30 is not a complete checkpoint"):
        train.main(named)


def run_script(*arguments, **kwargs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_weights(tmp_path, backbone_folder, data_file):
    """SIGKILL in mid-epoch, at no special moment; to the bit on one process."""
    many = ["--max_steps", "60", "--save_steps", "7", "--per_device_train_batch_size", "2"]  # 12 steps an epoch
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = run_script(*options(backbone_folder, data_file, killed, *many))
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint-14" / "trainer_state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -9 and not (killed / "model.safetensors").exists(), "it had ended already"
    train.main(options(backbone_folder, data_file, killed, *many, "--resume_from_checkpoint", "last"))
    train.main(options(backbone_folder, data_file, whole, *many))
    one, other = (load_file(folder / "checkpoint-60" / "model.safetensors") for folder in (killed, whole))
    assert all(torch.equal(one[name], weight) for name, weight in other.items())


def test_streaming_learns_from_what_it_reads_on_the_way(tmp_path, backbone_folder, data_file):
    more = [*steps(3), "--streaming", "--validation_file", data_file]
    train.main(options(backbone_folder, data_file, tmp_path, *more))
    log = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3]
    assert TSNModel.from_pretrained(tmp_path)


def test_a_stream_may_be_read_more_than_once_and_goes_on_where_it_stopped(tmp_path, backbone_folder, data_file):
    more = [*steps(14, 9), "--streaming"]  # 24 chunks in batches of 4: the third time over at the end
    train.main(options(backbone_folder, data_file, tmp_path / "whole", *more))
    shutil.copytree(tmp_path / "whole" / "checkpoint-9", tmp_path / "resumed" / "checkpoint-9")
    train.main(options(backbone_folder, data_file, tmp_path / "resumed", *more, "--resume_from_checkpoint", "last"))
    one, other = (load_file(tmp_path / name / "checkpoint-14" / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(one[name], weight) for name, weight in other.items())


@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_trains_without_validation_data_whenever_it_saves(tmp_path, backbone_folder, data_file, strategy):
    files = ["--backbone", backbone_folder, "--train_file", data_file, "--output_dir", tmp_path]
    train.main([*map(str, files), "--use_cpu", "--max_steps", "2", "--save_steps", "1", "--save_strategy", strategy])
    assert TSNModel.from_pretrained(tmp_path)
    assert len(list(tmp_path.glob("checkpoint-*"))) == (2 if strategy == "steps" else 0)


def test_heads_without_validation_labels_keep_their_temperature(tmp_path, backbone_folder, data_file, trained):
    """A TSN model that is trained further, on data with sentiment alone."""
    base, data = tmp_path / "base", tmp_path / "some.jsonl"
    shutil.copytree(trained, base)
    temperatures = {"topic": 1.9059, "ner": 0.7, "sentiment": 1.3}
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "temperatures": temperatures}))
    data.write_text("".join(json.dumps({"text": t, "sentiment": i % 3}) + "\n" for i, t in enumerate(TEXTS)))
    train.main(options(base, data, tmp_path / "out", *steps(1), "--validation_file", data))
    found = TSNConfig.from_pretrained(tmp_path / "out").temperatures
    assert (found["topic"], found["ner"]) == (1.9059, 0.7) and found["sentiment"] != 1.3


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_dropout_of_the_encoder(name):
    """Without any, two passes in training mode agree; the heads' own stays."""
    model = make_model(name, len(make_tokenizer()))
    set_dropout(model.backbone, 0.0)
    inputs = make_tokenizer()(TEXTS[0], return_tensors="pt")
    inputs = {key: value for key, value in inputs.items() if key != "token_type_ids"}
    one, other = (model.train().backbone(**inputs).last_hidden_state for _ in range(2))
    assert torch.equal(one, other) and model.dropout.p == model.config.head_dropout
    set_dropout(model.backbone, 0.5)
    assert not torch.equal(*(model.backbone(**inputs).last_hidden_state for _ in range(2)))


@pytest.mark.slow
def test_half_precision_needs_no_more_than_its_option(tmp_path, backbone_folder, data_file):
    # In a process of its own: TrainingArguments leaves the precision in the environment.
    arguments = options(backbone_folder, data_file, tmp_path, *steps(2), "--bf16", "true")
    process = run_script(*[argument for argument in arguments if argument != "--use_cpu"])
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors
    log = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert all(np.isfinite(entry["loss"]) for entry in log if "loss" in entry)


@pytest.mark.slow
def test_errors_end_the_command_in_one_line(tmp_path, backbone_folder):
    data = tmp_path / "bad.jsonl"
    data.write_text('{"text": "Hi", "sentiment": "furious"}\n')
    process = run_script(*options(backbone_folder, data, tmp_path / "out", *steps(1)))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("train.py: ") and "bad.jsonl, row 1" in errors


@pytest.mark.slow
def test_torch_compile(tmp_path, backbone_folder, data_file):
    train.main(options(backbone_folder, data_file, tmp_path, *steps(1), "--torch_compile", "true"))
    assert not any("_orig_mod" in name for name in load_file(tmp_path / "model.safetensors"))
    assert TSNModel.from_pretrained(tmp_path)
