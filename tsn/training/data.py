"""The data to train and to validate on: read, augmented, sampled, and checked before any training begins."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow.compute
from datasets import Dataset, IterableDataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from configuration_tsn import TSNConfig
from tsn.data.annotated import read_rows
from tsn.data.augmentation import augment
from tsn.data.features import IGNORED, TOKEN_LABELS, row_weights, rows_to_features, sample_indices, stream_features
from tsn.data.files import reads_once
from tsn.data.readers import BadRow, open_rows
from tsn.training.arguments import DataArguments

logger = logging.getLogger("train")
LABEL_COLUMNS = ("topics", "entities", "sentiment", "targets")
PEEK = 1000  # rows of a stream that are read to see whether anything is annotated


def load_data(
    data: DataArguments,
    tokenizer: PreTrainedTokenizerFast,
    config: TSNConfig,
    seed: int = 0,
    on_invalid: Callable | None = None,
    taught: bool = False,
) -> tuple[Dataset | IterableDataset, Dataset | None]:
    """The features to train on, and those to validate on or None.

    Args:
        data: See `tsn.training.arguments.parse_arguments`.
        tokenizer, config: See `tsn.data.features.rows_to_features`.
        seed: Random seed for augmentation, sampling and the order of a stream.
        on_invalid: See `tsn.data.annotated.read_rows`.
        taught: Whether a teacher labels the training data, so that nothing need be annotated in them.

    Raises:
        ValueError: no row with words, nothing annotated, or a sampling weight that makes no sense.
    """
    weights = read_weights(data.sampling_weights)
    sources: set[str] = set()

    def rows(paths, split):
        for path in paths:
            yield from _weighted(read_rows(path, config, split, on_invalid, data.streaming), weights, sources)

    def training_rows():
        options = {name: getattr(data, name) for name in ("lower_case", "contrast", "common_nouns", "names")}
        return augment(rows(data.train_file, "train"), **options, seed=seed)

    def features(read, paths, split):
        made = rows_to_features(tqdm(read, desc=f"reading {split} data", unit="row"), tokenizer, config)
        if not len(made):
            raise ValueError(f"no rows with words in {', '.join(paths)}{' that have a weight' if weights else ''}")
        if not _has_labels(made) and not (taught and split == "train"):
            raise ValueError(_nothing_annotated(paths, split))
        return made

    validation = None
    if data.validation_file:
        validation = features(rows(data.validation_file, "validation"), data.validation_file, "validation")
    if data.streaming:
        first = list(islice(rows(data.train_file, "train"), PEEK))
        if first and not taught and all(row[name] is None for row in first for name in LABEL_COLUMNS):
            raise ValueError(_nothing_annotated(data.train_file, "train", f" in the first {len(first)} rows"))
        return stream_features(training_rows, tokenizer, config, seed), validation
    sources.clear()
    train = features(training_rows(), data.train_file, "train")
    if weights:
        train = train.select(sample_indices(train["source"][:], weights, seed, sources))
    logger.info("%d chunks of %d tokens in all to train on, an epoch", len(train), sum(train["length"]))
    return train, validation


def _weighted(rows: Iterable[dict], weights: dict, sources: set) -> Iterator[dict]:
    """The rows whose weight is not 0: such rows are not read into the model as a part of others, either. Adds the
    source of every row to `sources`."""
    weight_of = {}
    for row in rows:
        name = f"{row['source']}/{row['language']}"
        if name not in weight_of:
            (weight_of[name],) = row_weights([name], weights)
            sources.add(name)
        if weight_of[name] != 0:
            yield row


def _has_labels(features: Dataset) -> bool:
    """Whether any chunk has a label of any head."""
    columns = features.data.table
    tags = [pyarrow.compute.list_flatten(columns[name]) for name in TOKEN_LABELS]
    return any(pyarrow.compute.max(c).as_py() not in (IGNORED, None) for c in (*tags, columns["sentiment_labels"]))


def _nothing_annotated(paths, split, where=""):
    seen = "; ".join(f"{path} has the columns {', '.join(_columns(path, split))}" for path in paths)
    return (
        f"nothing is annotated{where} of the {split} data: {seen}. Labels are read from the columns "
        f"{', '.join(LABEL_COLUMNS)} (in CSV, entities from ner)"
    )


def _columns(path, split):
    """Names of the columns that the first row of a file or data set has; none of a pipe, which is gone by now."""
    if reads_once(path):
        return []
    row = next(iter(open_rows(path, split=split, streaming=True)[1]), {})
    return list(row.columns if isinstance(row, BadRow) else row)


def read_weights(pairs: list[str] | None) -> dict[str, float]:
    """`--sampling_weights` as a dict.

    Raises:
        ValueError: a pair is not NAME=WEIGHT.
    """
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


class InvalidRows:
    """Writes the rows that are left out to a file, each once however often a stream repeats, and counts them."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.seen: set[str] = set()

    def __call__(self, error: ValueError, raw: dict | None) -> None:
        if str(error) in self.seen:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a" if self.seen else "w", encoding="utf-8") as file:
            print(json.dumps({"error": str(error), "row": raw}, ensure_ascii=False, default=str), file=file)
        self.seen.add(str(error))

    def report(self) -> None:
        if self.seen:
            logger.warning("%d invalid rows were left out; see %s", len(self.seen), self.path)
