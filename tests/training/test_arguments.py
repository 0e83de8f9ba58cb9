"""`tsn/training/arguments.py`: options, where they come from, and what follows from them."""

from pathlib import Path

import pytest

import train
from tests.conftest import ROOT
from tests.training.test_train import options
from tsn.training.arguments import parse_arguments


def test_options_from_a_file(tmp_path, capsys):
    path = tmp_path / "options.yaml"
    path.write_text(
        "backbone: b\ntrain_file: [a.csv, c.csv]\noutput_dir: out\nlearning_rate: 2e-4\nloss_weights: [1, 2, 3]"
    )
    model, _, data, training = parse_arguments([str(path), "--seed", "7", "--output_dir", str(tmp_path / "other")])
    assert (model.backbone, data.train_file, training.learning_rate) == ("b", ["a.csv", "c.csv"], 2e-4)
    assert (model.loss_weights, training.seed, Path(training.output_dir).name) == ([1, 2, 3], 7, "other")
    path.write_text("train_file: a.csv\noutput_dir: out\nentity_types: PRODUCT\nloss_weights: [1, 1, 1]")
    model, _, data, _ = parse_arguments([str(path)])
    assert (data.train_file, model.entity_types) == (["a.csv"], ["PRODUCT"]), "one of a list needs no brackets"
    path.write_text("backbone: b\nlerning_rate: 1")
    with pytest.raises(SystemExit):
        parse_arguments([str(path)])
    assert "lerning_rate" in capsys.readouterr().err


def test_shipped_configuration_is_valid(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # TrainingArguments would leave bf16 there, for all others
    arguments = [str(ROOT / "configs" / "tsn-e5.yaml"), "--output_dir", str(tmp_path)]
    model, _, data, training = parse_arguments(arguments)
    assert training.learning_rate == 2e-4 and model.loss_weights == [1, 1, 1] and data.validation_file


@pytest.mark.parametrize(
    "option", [["--lower_case", 1.5], ["--contrast", -0.1], ["--names", 2], ["--encoder_dropout", 1]]
)
def test_shares_are_shares(tmp_path, data_file, option, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(options("-", data_file, tmp_path, *option))
    assert f"{option[0]} is a " in capsys.readouterr().err


STRATEGIES = [
    # given without validation data, and what follows: evaluate, save, best
    ([], [], ("no", "epoch", False)),
    (["--save_strategy", "steps"], [], ("no", "steps", False)),
    (["--save_strategy", "no"], [], ("no", "no", False)),
    (["--eval_strategy", "steps"], [], ("no", "epoch", False)),
    # and with them
    ([], ["v"], ("epoch", "epoch", True)),
    (["--save_strategy", "steps"], ["v"], ("steps", "steps", True)),
    (["--save_strategy", "steps", "--save_steps", "30"], ["v"], ("steps", "steps", True)),
    (["--eval_strategy", "steps", "--eval_steps", "7"], ["v"], ("steps", "steps", True)),
    (["--save_strategy", "no"], ["v"], ("epoch", "no", False)),
    (["--save_strategy", "best"], ["v"], ("epoch", "best", True)),
    (["--eval_strategy", "no"], ["v"], ("no", "epoch", False)),
    (["--eval_strategy", "steps", "--save_strategy", "epoch"], ["v"], ("steps", "epoch", False)),
    (["--eval_strategy", "steps", "--eval_steps", "7", "--save_steps", "30"], ["v"], ("steps", "steps", False)),
    (["--save_strategy", "steps", "--save_steps", "0.2", "--eval_steps", "0.1"], ["v"], ("steps", "steps", True)),
    (["--save_strategy", "steps", "--load_best_model_at_end", "false"], ["v"], ("steps", "steps", False)),
]


@pytest.mark.parametrize("more, validation, expected", STRATEGIES)
def test_no_strategy_has_to_be_named_because_of_another(tmp_path, more, validation, expected):
    """What was given stays, what was not follows, and transformers has nothing to complain of."""
    files = ["--train_file", "t", "--output_dir", str(tmp_path)]
    files += ["--validation_file", *validation] if validation else []
    training = parse_arguments([*files, *more])[-1]
    assert (training.eval_strategy, training.save_strategy, training.load_best_model_at_end) == expected
    for name, value in zip(more[::2], more[1::2]):
        if name in ("--eval_steps", "--save_steps"):
            assert getattr(training, name[2:]) == float(value)


@pytest.mark.parametrize("option", ["--load_best_model_at_end", "--save_strategy best", "--early_stopping_patience 2"])
def test_what_needs_evaluations_says_so(tmp_path, option, capsys):
    base = ["--train_file", "t", "--output_dir", str(tmp_path), *option.split()]
    for more, reason in (([], "a --validation_file"), (["--validation_file", "v", "--eval_strategy", "no"], "evalua")):
        with pytest.raises(SystemExit):
            parse_arguments([*base, *more])
        assert f"{option.removesuffix(' 2')} needs {reason}" in capsys.readouterr().err


def test_a_bare_no_in_yaml(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("train_file: a\noutput_dir: out\nvalidation_file: b\neval_strategy: no\nsave_strategy: no\n")
    training = parse_arguments([str(path), "--output_dir", str(tmp_path)])[-1]
    assert (training.eval_strategy, training.save_strategy) == ("no", "no")


@pytest.mark.parametrize(
    "more, reason",
    [
        (["--streaming"], "--max_steps"),
        (["--streaming", "--max_steps", "2", "--sampling_weights", "a=1"], "--sampling_weights"),
    ],
)
def test_what_a_stream_cannot_do_is_said(tmp_path, backbone_folder, data_file, capsys, more, reason):
    with pytest.raises(SystemExit):
        train.main(options(backbone_folder, data_file, tmp_path, *more))
    assert reason in capsys.readouterr().err


def test_training_data_are_needed(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--output_dir", str(tmp_path)])
    assert "--train_file" in capsys.readouterr().err


def test_default_learning_rates(tmp_path):
    base = ["--train_file", "a", "--output_dir", str(tmp_path)]
    for more, expected in (([], 5e-5), (["--lora"], 1e-3), (["--lora", "--learning_rate", "2e-4"], 2e-4)):
        assert parse_arguments([*base, *more])[-1].learning_rate == expected
