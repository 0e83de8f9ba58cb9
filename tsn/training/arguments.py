"""The options of `train.py`: names, meanings and defaults, and what follows from those that were given."""

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from configuration_tsn import DEFAULT_BACKBONE
from tsn.training.trainer import LABELS


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        return (
            action.help if action.default is None else super()._get_help_string(action)
        )  # the text says what follows


@dataclass
class ModelArguments:
    backbone: str = field(
        default=DEFAULT_BACKBONE,
        metadata={"help": "Hub id or folder of an encoder to start from, or of a TSN model to train further."},
    )
    entity_types: Optional[list[str]] = field(
        default=None,
        metadata={"help": "Entity types of your data, for new heads. Default: PER LOC ORG MISC, or the TSN model's."},
    )
    ner_scheme: Optional[str] = field(
        default=None,
        metadata={
            "help": "Tag scheme of new entity heads: BIOES marks where entities begin and end, IO their type alone. "
            "Default: BIOES.",
            "choices": ["BIOES", "IO"],
        },
    )
    pooling: Optional[str] = field(
        default=None,
        metadata={
            "help": "What the sentiment head reads: the first token (cls) or the mean of all (mean), which also lets "
            "it be read at the words of a topic.",
            "choices": ["cls", "mean"],
        },
    )
    loss_weights: Optional[list[float]] = field(
        default=None,
        metadata={
            "help": "Weights of the topic, entity and sentiment loss; raise one to favour its head. Default: "
            "0.7 0.1 0.2, or the TSN model's."
        },
    )
    encoder_dropout: Optional[float] = field(
        default=None,
        metadata={
            "help": "Dropout in the encoder during training; 0 suits a short training of a model that is already "
            "good. Default: as the encoder's configuration says."
        },
    )
    chunk_words: Optional[int] = field(
        default=None, metadata={"help": "Most words of a chunk, the piece of text read at once. Default: 50."}
    )
    num_layers: Optional[int] = field(
        default=None,
        metadata={
            "help": "Keep this many of the encoder's layers, evenly spaced, for a faster model that learns from a "
            "--teacher."
        },
    )
    teacher: Optional[str] = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a TSN model to learn from beside the labels (knowledge distillation); rows "
            "without labels are then of use, too."
        },
    )


@dataclass
class LoraArguments:
    lora: bool = field(
        default=False,
        metadata={"help": "Train a small LoRA adapter and the heads; the encoder's weights stay as they are."},
    )
    load_in_8bit: bool = field(
        default=False,
        metadata={"help": "With --lora, keep the encoder in 8 bits to save memory (bitsandbytes; CUDA or CPU)."},
    )
    lora_rank: int = field(
        default=8, metadata={"help": "Rank of the adapter's matrices: higher learns more and weighs more."}
    )
    lora_alpha: int = field(
        default=16, metadata={"help": "Scale of the adapter: its output counts lora_alpha / lora_rank times."}
    )
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout on the adapter's input."})
    lora_modules: Optional[list[str]] = field(
        default=None,
        metadata={"help": "Names of the linear layers to adapt. Default: the attention's query, key and value."},
    )
    adapter: Optional[str] = field(default=None, metadata={"help": "Folder of an adapter to train further."})
    merge_adapter: Optional[str] = field(
        default=None,
        metadata={"help": "Folder of an adapter to merge into --backbone, its base, instead of training."},
    )


@dataclass
class DataArguments:
    train_file: Optional[list[str]] = field(
        default=None, metadata={"help": "Annotated data: .parquet, .jsonl or .csv files, or ids of Hub data sets."}
    )
    validation_file: Optional[list[str]] = field(
        default=None,
        metadata={
            "help": "Annotated data that is not trained on: to evaluate and choose the best checkpoint on, and to "
            "calibrate the scores on at the end."
        },
    )
    sampling_weights: Optional[list[str]] = field(
        default=None,
        metadata={
            "help": "NAME=WEIGHT ...: how often an epoch sees each row, such as reviews=2 tweets/en=0.3; 1 if not "
            "named. NAME is a `source` of the data, `source/language`, or where rows have no source the name of the "
            "file without its ending. 0 leaves such rows out, of the validation data too."
        },
    )
    lower_case: float = field(
        default=0.0,
        metadata={
            "help": "Share of the training rows, from 0 to 1, that get a copy in lower case, half of them without "
            "punctuation: for chats and transcribed calls."
        },
    )
    contrast: float = field(
        default=0.0,
        metadata={
            "help": "Share of the short training rows, from 0 to 1, that are also joined with one of the opposite "
            "polarity by their language's 'but' (de en es fr it nl pt): for sentences that praise one thing and "
            "blame another. Their source is 'contrast', for --sampling_weights."
        },
    )
    common_nouns: bool = field(
        default=False,
        metadata={
            "help": "In rows without annotated entities, teach that topics written in lower case, in a text that "
            "also has capitals, are no entities: for reviews, where the entity head takes common nouns for names."
        },
    )
    names: float = field(
        default=0.0,
        metadata={
            "help": "Share of the short reviews without names (rows with topics and no annotated entities), from 0 to "
            "1, that get a copy in which a company, person or place is named, as in 'the service at NAME'; the names "
            "are those of the annotated entities of earlier rows."
        },
    )
    invalid_rows: str = field(
        default="error",
        metadata={
            "help": "error: a bad row stops the run before training. skip: it is left out and written to "
            "invalid_rows.jsonl in the output.",
            "choices": ["error", "skip"],
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training data during training, so that they take no disk space; needs --max_steps. "
            "They are shuffled within 2,000 chunks only, and batches are not grouped by length."
        },
    )


@dataclass
class TSNTrainingArguments(TrainingArguments):
    output_dir: str = field(
        default=None, metadata={"help": "Folder for the model and its checkpoints.", "required": 1}
    )
    learning_rate: Optional[float] = field(
        default=None, metadata={"help": "Peak learning rate of the encoder. Default: 5e-5, with --lora 1e-3."}
    )
    head_learning_rate: float = field(
        default=1e-3,
        metadata={"help": "Peak learning rate of the heads; new ones take a higher one than the encoder."},
    )
    early_stopping_patience: Optional[int] = field(
        default=None,
        metadata={"help": "Stop after this many evaluations in a row without a better --metric_for_best_model."},
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Chunks per step and device in training."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Chunks per step and device in evaluation."})
    group_by_length: bool = field(
        default=True, metadata={"help": "Make batches of chunks of similar length: less padding, faster."}
    )
    warmup_ratio: float = field(
        default=0.06, metadata={"help": "Share of the steps in which the learning rate rises."}
    )
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's weight decay; none on biases and norms."})
    eval_strategy: Optional[str] = field(
        default=None,
        metadata={
            "help": "When to evaluate on --validation_file. Default: when checkpoints are saved; never without it.",
            "choices": ["no", "steps", "epoch"],
        },
    )
    eval_steps: Optional[float] = field(
        default=None,
        metadata={"help": "Evaluate every so many steps, or after this share of them all. Default: --save_steps."},
    )
    save_strategy: Optional[str] = field(
        default=None,
        metadata={
            "help": "When to save a checkpoint. Default: when evaluations run, else every epoch.",
            "choices": ["no", "steps", "epoch", "best"],
        },
    )
    save_steps: Optional[float] = field(
        default=None,
        metadata={"help": "Save every so many steps, or after this share of them all. Default: --eval_steps, or 500."},
    )
    save_total_limit: int = field(default=2, metadata={"help": "Checkpoints to keep; older ones are deleted."})
    load_best_model_at_end: bool = field(
        default=None,
        metadata={
            "help": "End with the best checkpoint rather than the last. Default: true where checkpoints are saved "
            "when evaluations run."
        },
    )
    metric_for_best_model: str = field(
        default="score",
        metadata={
            "help": "What makes a checkpoint the best: score (mean of topic_f1, ner_f1 and sentiment_macro_f1), or "
            "another metric of the evaluation, such as ner_f1."
        },
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    report_to: str = field(default="none", metadata={"help": "Trackers: none, tensorboard, wandb, all ..."})


def parse_arguments(
    argv: list[str], description: str | None = None
) -> tuple[ModelArguments, LoraArguments, DataArguments, TSNTrainingArguments]:
    """Options from the command line, or from a YAML or JSON file named first and the command line after it.

    Raises:
        SystemExit: an unknown option, or options that do not go together; the usage is printed.
        ValueError: the same, found by transformers.
    """
    groups: Any = (ModelArguments, LoraArguments, DataArguments, TSNTrainingArguments)
    parser = HfArgumentParser(
        groups,
        description=description,
        formatter_class=_HelpFormatter,
        usage="%(prog)s [CONFIG.yaml|CONFIG.json] --train_file FILE ... --output_dir OUT [options]",
    )
    if argv and argv[0].lower().endswith((".yaml", ".yml", ".json")):
        _read_defaults(parser, Path(argv[0]))
        argv = argv[1:]
    options = parser.parse_args(argv)
    options.lora = options.lora or options.adapter is not None
    _check(options, parser.error)
    _derive(options)
    model, lora, data, training = parser.parse_dict(vars(options))
    training.accelerator_config.dispatch_batches = False  # each process reads a stream itself
    if lora.load_in_8bit:
        training._n_gpu = 1  # DataParallel cannot copy weights in 8 bits to several GPUs
    return model, lora, data, training


def _read_defaults(parser, path):
    """Makes the values of a YAML or JSON file the parser's defaults."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML, too
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(f"{path} cannot be read: {error}")
    if not isinstance(values, dict):
        parser.error(f"{path} must hold options and their values")
    actions = {action.dest: action for action in parser._actions}
    unknown = sorted(set(map(str, values)) - set(actions))
    if unknown:
        parser.error(f"{path}: unknown options: {', '.join(unknown)}; --help lists them")
    for name, value in values.items():
        action = actions[name]
        action.required = False
        if value is False and action.choices and "no" in action.choices:
            value = "no"  # YAML reads a bare no as false
        # Lists of strings and numbers written as 1e-4, which YAML reads as a string, go through the option's own type.
        if action.nargs in ("+", "*") and isinstance(value, (str, int, float)):
            value = [value]
        if callable(action.type) and isinstance(value, (str, list)):
            convert = action.type
            try:
                value = [convert(str(v)) for v in value] if isinstance(value, list) else convert(value)
            except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
                parser.error(f"{path}: {name}: {error}")
        values[name] = value
    parser.set_defaults(**values)


def _check(options, error):
    """Calls `error` with what is wrong with the options that were given."""
    if not options.train_file and not options.merge_adapter:
        error("--train_file is needed")
    for name in ("num_layers", "teacher"):
        if options.lora and getattr(options, name) is not None:
            error(f"--lora cannot go with --{name}")
    if options.load_in_8bit and not options.lora:
        error("weights in 8 bits cannot be trained: --load_in_8bit goes with --lora")
    if options.lora and options.fsdp:
        error("--lora cannot go with --fsdp")
    if options.streaming and options.max_steps < 1:
        error("--streaming needs --max_steps: the length of the data is not known")
    if options.streaming and options.sampling_weights:
        error("--sampling_weights cannot go with --streaming")
    for name in ("lower_case", "contrast", "names"):
        if not 0 <= getattr(options, name) <= 1:
            error(f"--{name} is a share from 0 to 1, not {getattr(options, name)}")
    if options.encoder_dropout is not None and not 0 <= options.encoder_dropout < 1:
        error(f"--encoder_dropout is a probability from 0 to below 1, not {options.encoder_dropout}")
    for name, given in (
        ("--early_stopping_patience", options.early_stopping_patience is not None),
        ("--load_best_model_at_end", options.load_best_model_at_end),
        ("--save_strategy best", options.save_strategy == "best"),
    ):
        if given and not options.validation_file:
            error(f"{name} needs a --validation_file")
        if given and options.eval_strategy == "no":
            error(f"{name} needs evaluations, not --eval_strategy no")


def _derive(options):
    """Fills in what follows from the options that were given: the one place where options change."""
    options.use_cpu = options.use_cpu or not torch.accelerator.is_available()  # without it, --bf16 asks for a GPU
    if options.learning_rate is None:
        options.learning_rate = 1e-3 if options.lora else 5e-5
    options.group_by_length = options.group_by_length and not options.streaming
    _derive_strategies(options)
    options.label_names = LABELS
    options.remove_unused_columns = False  # the collator takes what the model reads, and `row`
    options.logging_nan_inf_filter = False  # it hides what TSNTrainer stops at
    options.max_grad_norm = options.max_grad_norm or math.inf  # 0 clips nothing; the norm is checked all the same
    if options.gradient_checkpointing_kwargs is None:  # the other kind needs a trainable encoder, and no DDP
        options.gradient_checkpointing_kwargs = {"use_reentrant": False}


def _derive_strategies(options):
    """When to evaluate and save: where one of the two was given the other follows, so that the best checkpoint can be
    kept."""
    periodic = ("steps", "epoch")
    if options.validation_file:
        wanted = (options.eval_strategy, options.save_strategy)
        either = next((strategy for strategy in wanted if strategy in periodic), "epoch")
        options.eval_strategy, options.save_strategy = options.eval_strategy or either, options.save_strategy or either
    else:
        options.eval_strategy, options.save_strategy = "no", options.save_strategy or "epoch"
    if options.save_steps is None:
        options.save_steps = options.eval_steps or 500
    if options.eval_steps is None:
        options.eval_steps = options.save_steps
    if options.load_best_model_at_end is None:
        every_save = options.save_strategy == "epoch" or _is_multiple(options.save_steps, options.eval_steps)
        together = options.save_strategy == options.eval_strategy != "no" and every_save
        options.load_best_model_at_end = options.save_strategy == "best" or together


def _is_multiple(steps, of):
    """Whether every save falls on an evaluation; both are numbers of steps, or both are shares of all steps."""
    return of > 0 and (steps < 1) == (of < 1) and abs(steps / of - round(steps / of)) < 1e-6
