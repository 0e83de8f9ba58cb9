"""Scores that mean probabilities: temperature scaling, and how far scores are from it.

    python -m tsn.evaluation.calibration CHECKPOINT VALIDATION [VALIDATION ...]

fits the temperature of each head on annotated data and stores it in the checkpoint's `config.json`. `train.py` does it
at its end. Guo et al. 2017, On Calibration of Modern Neural Networks: the logits are divided by one number for each
head, which changes no answer. It minimises the log loss of what the pipeline's scores claim: that this span is
exactly one of the text's, or that this is its sentiment.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer

from modeling_tsn import TSNModel
from tsn.data.annotated import read_rows
from tsn.data.features import IGNORED, TSNCollator, rows_to_features
from tsn.heads import HEADS

BINS = 15  # as in Guo et al.


def reliability(scores, correct, bins=BINS):
    """What a reliability diagram shows: answers in bins of equal width by their score.

    Args:
        scores: `(answers,)` in [0, 1].
        correct: `(answers,)` whether each answer is right.

    Returns:
        List of `{"score", "accuracy", "count"}`, means of the bins that are not empty, by score.
    """
    scores, correct = np.asarray(scores, dtype=float), np.asarray(correct, dtype=float)
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)  # (answers,)
    return [
        {
            "score": float(scores[bin_of == i].mean()),
            "accuracy": float(correct[bin_of == i].mean()),
            "count": int((bin_of == i).sum()),
        }
        for i in np.unique(bin_of)
    ]


def expected_calibration_error(scores, correct, bins=BINS):
    """Mean over the answers of how far the accuracy of their bin is from its mean score (Naeini et al. 2015)."""
    found = reliability(scores, correct, bins)
    return sum(b["count"] * abs(b["accuracy"] - b["score"]) for b in found) / max(len(scores), 1)


def fit_temperatures(model, tokenizer, features, batch_size=64):
    """The temperature of each head that makes its scores likeliest on annotated data.

    Args:
        model: A [`TSNModel`].
        tokenizer: Its fast tokenizer.
        features: See `tsn.data.features.rows_to_features`.

    Returns:
        dict: a number in [0.2, 10] for each head; 1 for one without labels, or without an answer.
    """
    config = model.config
    schemes = {"topic": config.topic_scheme(), "ner": config.entity_scheme()}
    heads = _labelled_logits(model, tokenizer, features, batch_size)
    temperatures = {}
    for task in HEADS:
        logits, labels, lengths = heads[task]
        judge = _judge_spans(schemes[task], labels, lengths) if task in schemes else _judge_classes(labels)
        temperatures[task] = round(_likeliest(lambda t, judge=judge, x=logits: judge(x / t)), 4)
    return temperatures


def _labelled_logits(model, tokenizer, features, batch_size):
    """For each head the logits and labels of what is labelled, `(labels, classes)` and `(labels,)`; and for the token
    heads how many labels each chunk has, `(chunks,)`."""
    model.eval()
    found = {task: ([], [], []) for task in HEADS}
    features = features.sort("length", reverse=True)
    loader = DataLoader(features, batch_size, collate_fn=TSNCollator(tokenizer))
    for batch in tqdm(loader, desc="calibrating", unit="batch"):
        inputs = {name: batch[name].to(model.device) for name in tokenizer.model_input_names}
        with torch.no_grad():
            outputs = model(**inputs)
        for task in HEADS:
            logits, labels, lengths = found[task]
            known = batch[f"{task}_labels"] != IGNORED  # (batch, tokens), or (batch,)
            logits.append(outputs[f"{task}_logits"].float().cpu()[known].numpy())
            labels.append(batch[f"{task}_labels"][known].numpy())
            if known.dim() == 2:
                lengths.append(known.sum(1).numpy())
    return {
        task: tuple(np.concatenate(part) if part else None for part in (logits, labels, lengths))
        for task, (logits, labels, lengths) in found.items()
    }


def _judge_spans(scheme, labels, lengths):
    """A function of logits that gives the spans' scores and which are right."""
    inside = np.arange(max(lengths, default=0)) < lengths[:, None]  # (chunks, longest)
    tags = np.full(inside.shape, scheme.labels.index("O"))
    tags[inside] = labels
    gold = set(zip(*(part.tolist() for part in scheme.decode(tags))))

    def judge(logits):
        *spans, scores = scheme.best_spans(logits, lengths)
        return scores, np.array([span in gold for span in zip(*(part.tolist() for part in spans))], dtype=bool)

    return judge


def _judge_classes(labels):
    def judge(logits):
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        best = shares.argmax(-1)
        return shares.max(-1) / shares.sum(-1), best == labels

    return judge


def _likeliest(judge):
    """The temperature at which the log loss of the scores, as probabilities of being right, is lowest."""

    def log_loss(log_temperature):
        scores, correct = judge(np.float32(np.exp(log_temperature)))
        if not len(scores):
            return 0.0
        scores = np.clip(scores.astype(float), 1e-6, 1 - 1e-6)
        return -np.where(correct, np.log(scores), np.log1p(-scores)).mean()

    if not len(judge(1.0)[0]):
        return 1.0
    found = minimize_scalar(log_loss, bounds=(np.log(0.2), np.log(10)), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def store_temperatures(folder, temperatures):
    """Writes them into the `config.json` of a folder."""
    path = Path(folder) / "config.json"
    values = {**json.loads(path.read_text(encoding="utf-8")), "temperatures": temperatures}
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tsn.evaluation.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="folder of a TSN model; its config.json is changed")
    parser.add_argument("data", nargs="+", help="annotated data that the model was not trained on, nor is tested on")
    arguments = parser.parse_args(argv)
    try:
        model = TSNModel.from_pretrained(arguments.checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
        rows = (row for name in arguments.data for row in read_rows(name, model.config, "validation"))
        features = rows_to_features(rows, tokenizer, model.config)
    except (OSError, ValueError) as error:
        sys.exit(f"tsn.evaluation.calibration: {error}")
    if not len(features):
        sys.exit(f"tsn.evaluation.calibration: no rows with words in {', '.join(arguments.data)}")
    temperatures = fit_temperatures(model, tokenizer, features)
    store_temperatures(arguments.checkpoint, temperatures)
    print(json.dumps(temperatures))


if __name__ == "__main__":
    main()
