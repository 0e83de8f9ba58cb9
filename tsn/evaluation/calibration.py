"""Scores that mean probabilities: temperature scaling, and how far scores are from it.

    python -m tsn.evaluation.calibration CHECKPOINT VALIDATION [VALIDATION ...]

fits the temperature of each head on annotated data and stores it in the checkpoint's `config.json`; a head without
labels in the data keeps its temperature. `train.py` does the same at its end. Guo et al. 2017, On Calibration of
Modern Neural Networks: the logits are divided by one number for each head, which changes no answer. It minimises the
log loss of what the pipeline's scores claim: that this span is exactly one of the text's, or that this is its
sentiment.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from scipy.optimize import minimize_scalar
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel
from tagging_tsn import TagScheme
from tsn.data.annotated import read_rows
from tsn.data.features import IGNORED, TSNCollator, rows_to_features
from tsn.heads import HEADS

BINS = 15  # as in Guo et al.


class LabelledHead(NamedTuple):
    """What one head says of what is labelled: words for a token head, chunks for the sentiment."""

    logits: np.ndarray  # (labels, classes)
    labels: np.ndarray  # (labels,)
    lengths: np.ndarray  # (chunks,) how many labels each chunk has

    def gold_spans(self, scheme: TagScheme):
        """The labels of a token head as `(row, first, end, type)` arrays, see `TagScheme.decode`."""
        inside = np.arange(max(self.lengths, default=0)) < self.lengths[:, None]  # (chunks, longest)
        tags = np.full(inside.shape, scheme.labels.index("O"))
        tags[inside] = self.labels
        return scheme.decode(tags)


class Labelled(NamedTuple):
    """What a model says of annotated data."""

    heads: dict[str, LabelledHead]
    annotated: np.ndarray  # (chunks, types) bool, the entity types that are annotated
    sources: np.ndarray  # (chunks,) names of the sources, with their languages


def reliability(scores: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> list[dict]:
    """What a reliability diagram shows: answers in bins of equal width by their score.

    Args:
        scores: `(answers,)` in [0, 1].
        correct: `(answers,)` whether each answer is right.

    Returns:
        List of `{"score", "accuracy", "count"}`, means of the bins that are not empty, by score.
    """
    values, hits = np.asarray(scores, dtype=float), np.asarray(correct, dtype=float)  # (answers,) each
    bin_of = np.minimum((values * bins).astype(int), bins - 1)  # (answers,)
    return [
        {
            "score": float(values[bin_of == i].mean()),
            "accuracy": float(hits[bin_of == i].mean()),
            "count": int((bin_of == i).sum()),
        }
        for i in np.unique(bin_of)
    ]


def expected_calibration_error(scores: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> float:
    """Mean over the answers of the gap between the accuracy of their bin and its mean score (Naeini et al. 2015)."""
    filled = reliability(scores, correct, bins)
    return sum(b["count"] * abs(b["accuracy"] - b["score"]) for b in filled) / max(len(scores), 1)


def fit_temperatures(
    model: TSNModel, tokenizer: PreTrainedTokenizerFast, features: Dataset, batch_size: int = 64
) -> dict[str, float]:
    """The temperature of each head that makes its scores likeliest on annotated data.

    Args:
        model: A [`TSNModel`].
        tokenizer: Its fast tokenizer.
        features: See `tsn.data.features.rows_to_features`. Of a row with only some entity types annotated, the
            predicted spans of the others are left out: nobody knows whether they are right.

    Returns:
        dict: a number in [0.2, 10] for each head. A head without labels in the features, or without an answer on
        them, keeps the model's own.

    Raises:
        ValueError: no head has a label.
    """
    config: Any = model.config
    return likeliest_temperatures(config, labelled_logits(model, tokenizer, features, batch_size))


def likeliest_temperatures(config: TSNConfig, labelled: Labelled) -> dict[str, float]:
    """What `fit_temperatures` does, on logits.

    Args:
        config: The model's.
        labelled: See `labelled_logits`.
    """
    if not any(len(head.labels) for head in labelled.heads.values()):
        raise ValueError("the data have no labels to calibrate on")
    judges = {
        "topic": lambda head: judge_spans(config.topic_scheme(), head),
        "ner": lambda head: judge_spans(config.entity_scheme(), head, labelled.annotated),
        "sentiment": lambda head: _judge_classes(head.labels),
    }
    temperatures = {}
    for name in HEADS:
        head = labelled.heads[name]
        fitted = _likeliest(head.logits, judges[name](head)) if len(head.labels) else None
        temperatures[name] = config.temperatures[name] if fitted is None else round(fitted, 4)
    return temperatures


def read_features(paths: Sequence[str], tokenizer: PreTrainedTokenizerFast, config: Any) -> Dataset:
    """The features of annotated validation data, see `tsn.data.features.rows_to_features`."""
    rows = (row for path in paths for row in read_rows(path, config, "validation"))
    return rows_to_features(rows, tokenizer, config)


def labelled_logits(
    model: TSNModel, tokenizer: PreTrainedTokenizerFast, features: Dataset, batch_size: int = 64
) -> Labelled:
    """What the model says of everything that is labelled.

    Args:
        model, tokenizer, features: See `fit_temperatures`.

    Raises:
        ValueError: there are no features.
    """
    if not len(features):
        raise ValueError("the data have no rows with words to calibrate on")
    model.eval()
    parts: dict[str, tuple[list, list, list]] = {name: ([], [], []) for name in HEADS}
    annotated = []
    features = features.sort("length", reverse=True)
    loader = DataLoader(features, batch_size, collate_fn=TSNCollator(tokenizer))
    for batch in tqdm(loader, desc="calibrating", unit="batch"):
        inputs = {name: batch[name].to(model.device) for name in tokenizer.model_input_names}
        with torch.no_grad():
            outputs = model(**inputs)
        for name in HEADS:
            logits, labels, lengths = parts[name]
            known = batch[f"{name}_labels"] != IGNORED  # (batch, tokens), or (batch,)
            logits.append(outputs[f"{name}_logits"].float().cpu()[known].numpy())
            labels.append(batch[f"{name}_labels"][known].numpy())
            lengths.append(known.reshape(len(known), -1).sum(1).numpy())
        annotated.append(batch["annotated_entity_types"].numpy())
    heads = {name: LabelledHead(*map(np.concatenate, columns)) for name, columns in parts.items()}
    return Labelled(heads, np.concatenate(annotated), np.array(features["source"][:]))


def judge_spans(scheme: TagScheme, head: LabelledHead, annotated: np.ndarray | None = None) -> Callable:
    """A function of a token head's logits that gives each span's chunk, its score and whether it is right, `(spans,)`.

    Args:
        annotated: `(chunks, types)` bool, the types that count; all of them if None.
    """
    gold = set(zip(*(part.tolist() for part in head.gold_spans(scheme))))

    def judge(logits):
        *spans, scores = scheme.best_spans(logits, head.lengths)
        correct = np.array([span in gold for span in zip(*(part.tolist() for part in spans))], dtype=bool)  # (spans,)
        chunk, *_, kind = spans
        known = slice(None) if annotated is None else annotated[chunk, kind]  # (spans,)
        return chunk[known], scores[known], correct[known]

    return judge


def _judge_classes(labels):
    """A function of logits that gives the scores of the best classes and which are right."""

    def judge(logits):
        shares = np.exp(logits - logits.max(-1, keepdims=True))  # (labels, classes)
        best = shares.argmax(-1)
        return shares.max(-1) / shares.sum(-1), best == labels

    return judge


def _likeliest(logits, judge):
    """The temperature at which the log loss of the scores, as probabilities of being right, is lowest; None where no
    answer can be judged."""

    def log_loss(log_temperature):
        *_, scores, correct = judge(logits / np.float32(np.exp(log_temperature)))
        if not len(scores):
            return 0.0
        scores = np.clip(scores.astype(float), 1e-6, 1 - 1e-6)
        return -np.where(correct, np.log(scores), np.log1p(-scores)).mean()

    if not len(judge(logits)[-1]):
        return None
    best = minimize_scalar(log_loss, bounds=(np.log(0.2), np.log(10)), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(best.x))


def store_temperatures(folder: str | Path, temperatures: dict[str, float]) -> None:
    """Writes temperatures into the `config.json` of a folder."""
    path = Path(folder) / "config.json"
    values = {**json.loads(path.read_text(encoding="utf-8")), "temperatures": temperatures}
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tsn.evaluation.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="folder of a TSN model; its config.json is changed")
    parser.add_argument(
        "data", nargs="+", help="annotated data, used neither to train nor to test: .parquet, .jsonl, .csv or a Hub id"
    )
    arguments = parser.parse_args(argv)
    try:
        model = TSNModel.from_pretrained(arguments.checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
        features = read_features(arguments.data, tokenizer, model.config)
    except (OSError, ValueError) as error:
        sys.exit(f"tsn.evaluation.calibration: {error}")
    try:
        temperatures = fit_temperatures(model, tokenizer, features)
    except ValueError as error:
        sys.exit(f"tsn.evaluation.calibration: {', '.join(arguments.data)}: {error}")
    store_temperatures(arguments.checkpoint, temperatures)
    print(json.dumps(temperatures))


if __name__ == "__main__":
    main()
