"""Trains a TSN model and writes it as a complete Hub folder.

    python train.py --backbone distilbert/distilbert-base-multilingual-cased \\
        --train_file train.parquet more.jsonl --validation_file validation.parquet --output_dir out

All options may stand in one YAML or JSON file, named first; options behind it take precedence:

    python train.py configs/tsn-minilm.yaml --output_dir out

It runs under `accelerate launch` with several processes, too. `out` then holds the best model in the form that
`pipeline("topic-sentiment-ner", model="out", trust_remote_code=True)` loads, and checkpoints to resume from.
"""

import argparse
import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np
import yaml
from transformers import (
    AutoTokenizer,
    EarlyStoppingCallback,
    HfArgumentParser,
    PretrainedConfig,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from configuration_tsn import DEFAULT_BACKBONE, TASKS, TSNConfig
from data_tsn import IGNORED, TSNCollator, read_rows, row_weights, rows_to_features, sample_indices
from hub_tsn import write_hub_folder
from metric_tsn import compute_metrics_from_rows
from modeling_tsn import TSNModel
from tagging_tsn import bioes_labels

logger = logging.getLogger("train")


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
    chunk_words: Optional[int] = field(default=None, metadata={"help": "Words a chunk has at most. Default: 50."})


@dataclass
class DataArguments:
    train_file: list[str] = field(
        metadata={"help": "Annotated data: .parquet, .jsonl or .csv files, or ids of Hub data sets."}
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
    invalid_rows: str = field(
        default="error",
        metadata={
            "help": "A bad row stops the run (error), or is written to invalid_rows.jsonl in the output and left out "
            "(skip).",
            "choices": ["error", "skip"],
        },
    )


@dataclass
class TSNTrainingArguments(TrainingArguments):
    output_dir: str = field(
        default=None, metadata={"help": "Folder for the model and its checkpoints.", "required": 1}
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


class TSNTrainer(Trainer):
    """`Trainer` with a learning rate of its own for the heads."""

    def create_optimizer(self):
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decayed = set(self.get_decay_parameter_names(self.model))
            groups = {}
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    key = (name.split(".")[0].endswith("_head"), name in decayed)
                    groups.setdefault(key, []).append(parameter)
            self.optimizer = optimizer_class(
                [
                    {
                        "params": parameters,
                        "lr": self.args.head_learning_rate if is_head else self.args.learning_rate,
                        "weight_decay": self.args.weight_decay if is_decayed else 0.0,
                    }
                    for (is_head, is_decayed), parameters in groups.items()
                ],
                **options,
            )
        return self.optimizer


def chunk_metrics(config: TSNConfig):
    """`compute_metrics` for the trainer: exact spans and sentiment, chunk by chunk.

    `eval.py` measures whole texts through the pipeline; here a span that a chunk's border cuts is not counted.
    """
    schemes = {"topics": config.topic_scheme(), "entities": config.entity_scheme()}
    names = config.sentiment_labels

    def rows(tags, lengths, scheme, known):
        """The spans of each row, in words; None for a row without labels of this head."""
        out = [[] if is_known else None for is_known in known]
        for row, first, end, kind in zip(*scheme.decode(tags)):
            if known[row] and end <= lengths[row]:
                span = {"start": int(first), "end": int(end), "word": "", "score": 1.0}
                out[row].append({**span, "label": scheme.types[kind]})
        return out

    def compute(prediction):
        *token_logits, sentiment_logits = prediction.predictions
        *token_labels, sentiment_labels = prediction.label_ids
        predicted, gold = {}, {}
        for (head, scheme), logits, labels in zip(schemes.items(), token_logits, token_labels):
            labelled = labels != IGNORED  # (rows, tokens)
            lengths = labelled.sum(1)
            order = np.argsort(~labelled, axis=1, kind="stable")[
                :, : max(lengths.max(), 1)
            ]  # tagged words to the front
            words = np.take_along_axis(logits, order[:, :, None], 1)  # (rows, words, tags)
            tags = np.where(np.arange(order.shape[1]) < lengths[:, None], np.take_along_axis(labels, order, 1), 0)
            predicted[head] = rows(scheme.viterbi(words, lengths), lengths, scheme, lengths > 0)
            gold[head] = rows(tags, lengths, scheme, lengths > 0)
        known = [label != IGNORED for label in sentiment_labels]
        best = sentiment_logits.argmax(-1)
        predicted["sentiment"] = [names[i] for i in best]
        gold["sentiment"] = [names[i] if k else None for i, k in zip(sentiment_labels, known)]
        for head in schemes:  # the metric takes a list where the gold is None
            predicted[head] = [spans or [] for spans in predicted[head]]
        to_rows = lambda columns: [dict(zip(columns, values)) for values in zip(*columns.values())]  # noqa: E731
        metrics = compute_metrics_from_rows(to_rows(predicted), to_rows(gold))
        return {name: value for name, value in metrics.items() if "@" not in name}  # those need the phrases' text

    return compute


def parse_arguments(argv):
    """Options from the command line, or from a YAML or JSON file named first and the command line behind it."""
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, TSNTrainingArguments),
        description=__doc__,
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
            if callable(convert) and isinstance(value, (str, list)):
                values[name] = [convert(str(v)) for v in value] if isinstance(value, list) else convert(value)
        parser.set_defaults(**values)
        argv = argv[1:]
    return parser.parse_args_into_dataclasses(args=argv)


def load_model(arguments: ModelArguments):
    """The model to train and its tokenizer, from an encoder or from a TSN model."""
    given = {
        name: getattr(arguments, name)
        for name in ("entity_types", "ner_scheme", "pooling", "loss_weights", "chunk_words")
        if getattr(arguments, name) is not None
    }
    if "loss_weights" in given:
        if len(given["loss_weights"]) != len(TASKS):
            raise ValueError(f"--loss_weights needs {len(TASKS)} numbers: {', '.join(TASKS)}")
        given["loss_weights"] = dict(zip(TASKS, given["loss_weights"]))
    tokenizer = AutoTokenizer.from_pretrained(arguments.backbone, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ValueError(f"{arguments.backbone} has no fast tokenizer, which the offsets come from.")
    model_type = PretrainedConfig.get_config_dict(arguments.backbone)[0].get("model_type")
    if model_type != TSNConfig.model_type:
        types = given.pop("entity_types", None)
        if types:
            given["ner_labels"] = ["O", *types] if given.get("ner_scheme") == "IO" else bioes_labels(types)
        return TSNModel.from_backbone(arguments.backbone, **given), tokenizer
    model = TSNModel.from_pretrained(arguments.backbone)
    model.config.loss_weights = given.pop("loss_weights", model.config.loss_weights)
    if given:
        raise ValueError(
            f"{arguments.backbone} is a TSN model, which brings its own {', '.join(given)}: leave them out."
        )
    return model, tokenizer


def load_features(paths, split, tokenizer, config, on_invalid):
    """All rows of the files as one set of features."""
    rows = (row for path in paths for row in read_rows(path, config, split, on_invalid))
    features = rows_to_features(rows, tokenizer, config)
    if not len(features):
        raise ValueError(f"no rows with words in {', '.join(paths)}")
    return features


def _weights(pairs):
    weights = {}
    for pair in pairs or []:
        name, _, weight = pair.rpartition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            name = ""
        if not name:
            raise ValueError(f"--sampling_weights takes NAME=WEIGHT, such as reviews=2, not {pair!r}")
    return weights


def _checkpoint(training):
    """The checkpoint to go on from: a folder, or the newest of the output with `--resume_from_checkpoint last`."""
    if training.resume_from_checkpoint != "last":
        return training.resume_from_checkpoint
    found = get_last_checkpoint(training.output_dir) if Path(training.output_dir).is_dir() else None
    if found is None:
        raise ValueError(f"--resume_from_checkpoint last: there is no checkpoint in {training.output_dir}")
    return found


class InvalidRows:
    """Writes the rows that are left out to a file, and counts them."""

    def __init__(self, path):
        self.path, self.count = Path(path), 0

    def __call__(self, error, raw):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w" if self.count == 0 else "a", encoding="utf-8") as file:
            print(json.dumps({"error": str(error), "row": raw}, ensure_ascii=False, default=str), file=file)
        self.count += 1


def main(argv=None):
    model_arguments, data, training = parse_arguments(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO if training.process_index == 0 else logging.ERROR, format="%(message)s")
    set_seed(training.seed)
    model, tokenizer = load_model(model_arguments)
    config = model.config
    invalid = InvalidRows(Path(training.output_dir) / "invalid_rows.jsonl") if data.invalid_rows == "skip" else None
    with training.main_process_first(desc="reading data"):
        train = load_features(data.train_file, "train", tokenizer, config, invalid)
        validation = None
        if data.validation_file:
            validation = load_features(data.validation_file, "validation", tokenizer, config, invalid)
    if invalid and invalid.count:
        logger.warning("%d invalid rows were left out; see %s", invalid.count, invalid.path)
    weights = _weights(data.sampling_weights)
    if weights:
        train = train.select(sample_indices(train["source"][:], weights, training.seed))
        if validation is not None:
            validation = validation.select(np.flatnonzero(row_weights(validation["source"][:], weights)))
    logger.info("%d chunks of %d tokens in all to train on, an epoch", len(train), sum(train["length"]))

    if validation is None:
        training.eval_strategy, training.load_best_model_at_end = "no", False
    callbacks = []
    if training.early_stopping_patience is not None:
        if validation is None:
            raise ValueError("--early_stopping_patience needs a --validation_file")
        callbacks.append(EarlyStoppingCallback(training.early_stopping_patience))
    trainer = TSNTrainer(
        model,
        training,
        data_collator=TSNCollator(tokenizer),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        compute_metrics=chunk_metrics(config),
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=_checkpoint(training))
    if trainer.is_world_process_zero():
        write_hub_folder(trainer.accelerator.unwrap_model(trainer.model).float(), tokenizer, training.output_dir)
        trainer.state.save_to_json(str(Path(training.output_dir) / "trainer_state.json"))
        logger.info("The model is in %s", training.output_dir)
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
