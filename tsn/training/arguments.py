"""The options of `train.py`: what they are called, mean and default to, and how they are read."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from configuration_tsn import DEFAULT_BACKBONE


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


@dataclass
class ModelArguments:
    backbone: str = field(
        default=DEFAULT_BACKBONE,
        metadata={"help": "Hub id or folder of an encoder to start from, or of a TSN model to train further."},
    )
    entity_types: Optional[list[str]] = field(
        default=None, metadata={"help": "Entity types of your data. Default: PER LOC ORG MISC."}
    )
    ner_scheme: Optional[str] = field(
        default=None, metadata={"help": "Tag scheme of the entity head.", "choices": ["BIOES", "IO"]}
    )
    pooling: Optional[str] = field(
        default=None,
        metadata={"help": "What the sentiment head reads: the first token or the mean.", "choices": ["cls", "mean"]},
    )
    loss_weights: Optional[list[float]] = field(
        default=None, metadata={"help": "Weights of the topic, entity and sentiment loss. Default: 0.7 0.1 0.2."}
    )
    encoder_dropout: Optional[float] = field(
        default=None,
        metadata={"help": "Dropout within the encoder while training. Default: as its configuration says."},
    )
    chunk_words: Optional[int] = field(default=None, metadata={"help": "Words a chunk has at most. Default: 50."})


@dataclass
class LoraArguments:
    lora: bool = field(
        default=False, metadata={"help": "Train a LoRA adapter and the heads; the encoder stays as it is."}
    )
    load_in_8bit: bool = field(
        default=False, metadata={"help": "With --lora, hold the encoder in 8 bits (bitsandbytes; CUDA or CPU)."}
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the adapter's matrices."})
    lora_alpha: int = field(default=16, metadata={"help": "Their product counts lora_alpha / lora_rank times."})
    lora_dropout: float = field(default=0.1, metadata={"help": "Dropout on what they read."})
    lora_modules: Optional[list[str]] = field(
        default=None,
        metadata={"help": "Names of the layers to adapt. Default: the attention's query, key and value."},
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
        default=None, metadata={"help": "Annotated data to choose the best checkpoint on."}
    )
    sampling_weights: Optional[list[str]] = field(
        default=None,
        metadata={
            "help": "NAME=WEIGHT ...: how often an epoch sees each row, 1 if not named. NAME is a `source` of the "
            "data, `source/language`, or the name of a file without its ending where rows have no source; "
            "0 leaves them out, of the validation data too."
        },
    )
    lower_case: float = field(
        default=0.0,
        metadata={
            "help": "Share of the training rows that get a copy in lower case, half of them without punctuation, as "
            "chats and transcribed calls are."
        },
    )
    contrast: float = field(
        default=0.0,
        metadata={
            "help": "Share of the short training rows with one polarity that are joined by the language's 'but' with "
            "one of the opposite polarity; their source is 'contrast'."
        },
    )
    common_nouns: bool = field(
        default=False,
        metadata={
            "help": "Where entities are not annotated, teach that topics in lower case, in a text that also has "
            "capitals, are no entities."
        },
    )
    invalid_rows: str = field(
        default="error",
        metadata={
            "help": "A bad row stops the run (error), or is written to invalid_rows.jsonl in the output and left out "
            "(skip).",
            "choices": ["error", "skip"],
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read and cut the training data while training on them, so that they need no disk; needs "
            "--max_steps. Their order is mixed within 2,000 chunks alone, and batches are not grouped by length."
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
        default=1e-3, metadata={"help": "Learning rate of the three heads; --learning_rate is the encoder's."}
    )
    early_stopping_patience: Optional[int] = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better metric_for_best_model."}
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Chunks a step and device."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Chunks a step and device."})
    group_by_length: bool = field(default=True, metadata={"help": "Batches of chunks of similar length."})
    warmup_ratio: float = field(default=0.06, metadata={"help": "Share of the steps with a rising learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's, not on biases and norms."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch or best."})
    save_total_limit: int = field(default=2, metadata={"help": "Checkpoints to keep."})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "End with the best checkpoint, not the last."}
    )
    metric_for_best_model: str = field(
        default="score",
        metadata={
            "help": "score (mean of topic_f1, ner_f1 and sentiment_macro_f1), or any other metric of the log, such as "
            "ner_f1."
        },
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    report_to: str = field(default="none", metadata={"help": "Trackers: none, tensorboard, wandb, all ..."})

    def __post_init__(self):
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()  # without it, --bf16 asks for a GPU
        super().__post_init__()


def parse_arguments(argv, description=None):
    """Options from the command line, or from a YAML or JSON file named first and the command line behind it."""
    parser = HfArgumentParser(
        (ModelArguments, LoraArguments, DataArguments, TSNTrainingArguments),
        description=description,
        formatter_class=_HelpFormatter,
        usage="%(prog)s [CONFIG.yaml|CONFIG.json] --train_file FILE ... --output_dir OUT [options]",
    )
    if argv and argv[0].lower().endswith((".yaml", ".yml", ".json")):
        path = Path(argv[0])
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML, too
        except (OSError, yaml.YAMLError) as error:
            parser.error(f"{path} cannot be read: {error}")
        if not isinstance(values, dict):
            parser.error(f"{path} must hold options and their values")
        actions = {action.dest: action for action in parser._actions}
        unknown = sorted(set(values) - set(actions))
        if unknown:
            parser.error(f"{path}: unknown options: {', '.join(map(str, unknown))}; --help lists them")
        for name in values:
            actions[name].required = False
        # Lists of strings and numbers written as 1e-4, which YAML reads as a string, go through the option's own type.
        for name, value in values.items():
            convert = actions[name].type
            if actions[name].nargs in ("+", "*") and isinstance(value, (str, int, float)):
                value = values[name] = [value]
            if callable(convert) and isinstance(value, (str, list)):
                values[name] = [convert(str(v)) for v in value] if isinstance(value, list) else convert(value)
        parser.set_defaults(**values)
        argv = argv[1:]
    model, lora, data, training = parser.parse_args_into_dataclasses(args=argv)
    lora.lora = lora.lora or lora.adapter is not None
    if not data.train_file and not lora.merge_adapter:
        parser.error("--train_file is needed")
    if lora.load_in_8bit and not lora.lora:
        parser.error("weights in 8 bits cannot be trained: --load_in_8bit goes with --lora")
    if data.streaming and training.max_steps < 1:
        parser.error("--streaming needs --max_steps: how long the data are is not known")
    if data.streaming and data.sampling_weights:
        parser.error("--sampling_weights cannot go with --streaming")
    training.group_by_length = training.group_by_length and not data.streaming
    if training.learning_rate is None:
        training.learning_rate = 1e-3 if lora.lora else 5e-5
    return model, lora, data, training
