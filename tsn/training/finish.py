"""From trained checkpoints to the model that is released: an average, a threshold for spans, and calibrated scores.

    python -m tsn.training.finish CHECKPOINT=SHARE [CHECKPOINT=SHARE ...] --validation_file FILE [FILE ...] \\
        --output_dir FOLDER

1. The average of models that were trained from the same start, each with its share, is often better than either
   (Wortsman et al. 2022, Model soups, and Robust fine-tuning of zero-shot models): between a model and what it was
   trained further to, it keeps most of what the one knew and most of what the other has learned.
2. A tag that is likelier than not is the right threshold for accuracy. For F1 it is lower, half of the F1 that can be
   reached (Lipton et al. 2014, Optimal Thresholding of Classifiers to Maximize F1 Measure). Each token head's bias of
   `O` is lowered by the number at which the span F1 of a validation file, as `eval.py` reports it, is highest; of
   several files, the mean.
3. Temperatures, see `tsn.evaluation.calibration`.
"""

import argparse
import json
import sys

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerFast

from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel
from tsn.evaluation.calibration import (
    Labelled,
    judge_spans,
    labelled_logits,
    likeliest_temperatures,
    read_features,
)
from tsn.hub.folder import write_hub_folder
from tsn.training.model import load_tokenizer

SHIFTS = np.arange(0, 2.05, 0.2)  # what is tried
FEWEST = 20  # gold spans of a source that counts


def average(models: list[TSNModel], shares: list[float]) -> TSNModel:
    """The weighted average of models of one architecture, made in the first of them.

    Args:
        models: In fp32.
        shares: `(models,)` positive; their sum need not be 1.

    Raises:
        ValueError: a share is not positive, or the models have different weights.
    """
    if not all(share > 0 for share in shares):
        raise ValueError(f"shares must be positive, not {', '.join(map(str, shares))}")
    states = [model.state_dict() for model in models]
    shapes = [{name: weight.shape for name, weight in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes[1:]):
        raise ValueError("the models cannot be averaged: their weights have different names or shapes")
    total = sum(shares)
    for name, weight in states[0].items():
        if weight.is_floating_point():
            weight.copy_(sum(state[name] * (share / total) for state, share in zip(states, shares)))
    return models[0]


def fit_outside_shifts(config: TSNConfig, labelled: Labelled) -> dict[str, float]:
    """By how much to lower the logit of `O`, for each token head.

    Args:
        config: The model's.
        labelled: See `tsn.evaluation.calibration.labelled_logits`.

    Returns:
        dict: `{"topic": shift, "ner": shift}`, the one of `SHIFTS` with the highest mean over the sources of span F1;
        0 for a head without a source that has enough spans.
    """
    return {
        "topic": _best_shift(config.topic_scheme(), labelled.heads["topic"], labelled.sources, None),
        "ner": _best_shift(config.entity_scheme(), labelled.heads["ner"], labelled.sources, labelled.annotated),
    }


def _file_features(path: str, tokenizer: PreTrainedTokenizerFast, config: TSNConfig) -> Dataset:
    """The features of a validation file, which counts as one source: see `fit_outside_shifts`."""
    features = read_features([path], tokenizer, config)
    return features.remove_columns("source").add_column("source", np.full(len(features), path))


def _best_shift(scheme, head, sources, annotated):
    names, source_of = np.unique(sources, return_inverse=True)  # (sources,), (chunks,)
    support = np.bincount(source_of[head.gold_spans(scheme)[0]], minlength=len(names))  # (sources,)
    counts = support >= FEWEST
    if not counts.any():
        return 0.0
    judge, means = judge_spans(scheme, head, annotated), []
    for shift in SHIFTS:
        chunk, _, right = judge(_lowered(scheme, head.logits, shift))
        source = source_of[chunk]  # (spans,)
        predicted, correct = (np.bincount(s, minlength=len(names)) for s in (source, source[right]))  # (sources,)
        means.append((2 * correct[counts] / (predicted + support)[counts]).mean())
    best = np.flatnonzero(np.isclose(means, max(means)))[0]  # of equals, the one that changes least
    return round(float(SHIFTS[best]), 1)


def _lowered(scheme, logits, shift):
    """A copy of `(words, tags)` logits whose `O` is lower."""
    return logits - shift * np.eye(len(scheme.labels), dtype=logits.dtype)[scheme.labels.index("O")]


def lower_outside(model: TSNModel, labelled: Labelled, shifts: dict[str, float]) -> Labelled:
    """Lowers the bias of `O` of each token head in the model, and in what it said."""
    config, heads = model.config, dict(labelled.heads)
    schemes = {"topic": config.topic_scheme(), "ner": config.entity_scheme()}
    for name, shift in shifts.items():
        bias = getattr(model, f"{name}_head").bias
        bias.data[schemes[name].labels.index("O")] -= shift
        heads[name] = heads[name]._replace(logits=_lowered(schemes[name], heads[name].logits, shift))
    return labelled._replace(heads=heads)


def parse_shares(pairs: list[str]) -> tuple[list[str], list[float]]:
    """`CHECKPOINT=SHARE` arguments as two lists; a checkpoint alone has the share 1.

    Raises:
        ValueError: a share is not a number.
    """
    folders, shares = [], []
    for pair in pairs:
        folder, _, share = pair.rpartition("=")
        try:
            shares.append(float(share) if folder else 1.0)
        except ValueError:
            raise ValueError(f"{pair!r} is not CHECKPOINT=SHARE, such as out/v3=0.6") from None
        folders.append(folder or pair)
    return folders, shares


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tsn.training.finish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", help="folder of a TSN model, and its share in the average")
    parser.add_argument(
        "--validation_file", nargs="+", required=True, help="annotated data, used neither to train nor to test"
    )
    parser.add_argument("--output_dir", required=True, help="where the model goes, as a complete Hub folder")
    arguments = parser.parse_args(argv)
    try:
        folders, shares = parse_shares(arguments.checkpoints)
        model = average([TSNModel.from_pretrained(folder, dtype=torch.float32) for folder in folders], shares).eval()
        tokenizer = load_tokenizer(folders[0])
        features = [_file_features(file, tokenizer, model.config) for file in arguments.validation_file]
        labelled = labelled_logits(model, tokenizer, concatenate_datasets(features))
        shifts = fit_outside_shifts(model.config, labelled)
        labelled = lower_outside(model, labelled, shifts)
        model.config.temperatures = likeliest_temperatures(model.config, labelled)
    except (OSError, ValueError) as error:
        sys.exit(f"tsn.training.finish: {error}")
    write_hub_folder(model, tokenizer, arguments.output_dir, torch.float16)
    print(json.dumps({"outside_shifts": shifts, "temperatures": model.config.temperatures}))


if __name__ == "__main__":
    main()
