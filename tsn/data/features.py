"""Checked rows to model features, in a memory-mapped file or as a stream, and features to batches."""

import atexit
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Dataset, Features, IterableDataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from chunking_tsn import encode_chunks, model_inputs, padding_values, tag_words, token_limit
from configuration_tsn import TSNConfig
from tagging_tsn import first_subtokens

IGNORED = -100
TOKEN_LABELS = ("topic_labels", "ner_labels", "topic_sentiment_labels")


def rows_to_features(
    rows: Iterable[dict], tokenizer: PreTrainedTokenizerFast, config: TSNConfig, batch_rows: int = 1000
) -> Dataset:
    """Cuts rows into the chunks that the pipeline would read, and aligns their labels with the tokens.

    A tag sits on the first sub-token of each word, the rest is -100. Every chunk of a text carries its sentiment. The
    words of a span that a chunk's border cuts are -100: half a phrase is no example of a phrase. Topics and targets
    label the sentiment at their words; where the two overlap, the target's counts.

    Args:
        rows: Iterable of checked rows, see `tsn.data.annotated.read_rows`.
        tokenizer: A fast tokenizer.
        config: Gives labels, chunk size and the most tokens a chunk may have.
        batch_rows: Rows tokenized at a time.

    Returns:
        `datasets.Dataset`, one row for each chunk, mapped into memory from a temporary file, so that its size does not
        matter: the tokenizer's columns; `topic_labels`, `ner_labels` and `topic_sentiment_labels` (lists as long as
        `input_ids`); `annotated_entity_types` (a bool for each entity type); `sentiment_labels` (a number); `length`
        in tokens; `source` as `"source/language"`; and `row`, which names the row.
    """
    schema = _schema(tokenizer)
    folder = tempfile.TemporaryDirectory(prefix="tsn-features-")
    atexit.register(folder.cleanup)
    path = os.path.join(folder.name, "features.arrow")
    with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
        for columns in _feature_columns(rows, tokenizer, config, batch_rows):
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))
    return Dataset.from_file(path)


def stream_features(
    read: Callable[[], Iterable[dict]],
    tokenizer: PreTrainedTokenizerFast,
    config: TSNConfig,
    seed: int = 0,
    buffer_size: int = 2000,
) -> IterableDataset:
    """As `rows_to_features`, but cut during training, for data that fit on no disk.

    Args:
        read: Called without arguments for each pass; returns an iterable of checked rows.
        tokenizer, config: See `rows_to_features`.
        seed: Random seed for the order: each chunk is drawn from a buffer of the next `buffer_size` ones.

    Returns:
        `datasets.IterableDataset` with the columns of `rows_to_features`; it never ends.

    Raises:
        ValueError: a pass, when it is at its end, had no row with words.
    """

    def features():
        count = 0
        for columns in _feature_columns(read(), tokenizer, config, 100):
            for values in zip(*columns.values()):
                yield dict(zip(columns, values))
                count += 1
        if not count:
            raise ValueError("no rows with words in the training data")

    stream = IterableDataset.from_generator(features, features=Features.from_arrow_schema(_schema(tokenizer)))
    return stream.repeat(None).shuffle(seed=seed, buffer_size=buffer_size)


def _schema(tokenizer):
    tags = {name: pyarrow.list_(pyarrow.int16()) for name in TOKEN_LABELS}
    numbers = {"sentiment_labels": pyarrow.int16(), "length": pyarrow.int32()}
    numbers["annotated_entity_types"] = pyarrow.list_(pyarrow.bool_())
    inputs = {name: pyarrow.list_(pyarrow.int32()) for name in tokenizer.model_input_names}
    return pyarrow.schema({**inputs, **tags, **numbers, "source": pyarrow.string(), "row": pyarrow.string()})


def _feature_columns(rows, tokenizer, config, batch_rows):
    """Yields the features of every `batch_rows` rows, as a list for each column."""
    rows, names = iter(rows), _schema(tokenizer).names
    while batch := list(islice(rows, batch_rows)):
        columns = {name: [] for name in names}
        _append_features(columns, batch, tokenizer, config)
        yield columns


def _append_features(columns, rows, tokenizer, config):
    limit = token_limit(tokenizer, config)
    owners, chunks, encodings = encode_chunks([row["text"] for row in rows], tokenizer, config.chunk_words, 0, limit)
    topic_scheme, entity_scheme = config.topic_scheme(), config.entity_scheme()
    topic_type = topic_scheme.types[0]
    for i, chunk, encoding in zip(owners, chunks, encodings):
        row, length = rows[i], len(encoding)
        positions, units = first_subtokens(tag_words(row["text"][chunk.start : chunk.end]), encoding.offsets)
        if not len(units):
            continue  # the pipeline does not read a chunk without a word either
        units = units + chunk.start
        topics = None if row["topics"] is None else [{**span, "label": topic_type} for span in row["topics"]]
        topics, entities = _placed(topics, units, chunk), _placed(row["entities"], units, chunk)
        labels = {
            "topic_labels": _tags(topics, topic_scheme, len(units)),
            "ner_labels": _tags(entities, entity_scheme, len(units)),
            "topic_sentiment_labels": _sentiments(
                [*(topics or []), *(_placed(row["targets"], units, chunk) or [])], config.sentiment_labels, len(units)
            ),
        }
        if row["entities"] is None and row.get("common_nouns"):
            labels["ner_labels"] = _outside(_placed(row["common_nouns"], units, chunk), entity_scheme, len(units))
        for name, tags in labels.items():
            aligned = np.full(length, IGNORED, dtype=np.int64)
            aligned[positions] = tags
            columns[name].append(aligned)
        sentiment = row["sentiment"]
        columns["sentiment_labels"].append(IGNORED if sentiment is None else config.sentiment_labels.index(sentiment))
        # Common nouns are no entities of any type, whichever were annotated.
        partly = row["entities"] is not None and row["entity_types"] is not None
        annotated = row["entity_types"] if partly else entity_scheme.types
        columns["annotated_entity_types"].append([name in annotated for name in entity_scheme.types])
        inputs = model_inputs(encoding)
        for name in tokenizer.model_input_names:
            columns[name].append(inputs[name])
        columns["length"].append(length)
        columns["source"].append(f"{row['source']}/{row['language']}")
        columns["row"].append(row["row"])


def _tags(placed, scheme, count):
    """`(count,)` tag indices of the words, or -100 where nothing is known."""
    if placed is None:
        return IGNORED
    tags = scheme.encode([(first, last, span["label"]) for first, last, span, cut in placed if not cut], count)
    for first, last, _, cut in placed:
        if cut:
            tags[first:last] = IGNORED
    return tags


def _outside(placed, scheme, count):
    """`(count,)` the tag `O` at the words of the spans, -100 elsewhere."""
    tags = np.full(count, IGNORED, dtype=np.int64)
    for first, last, *_ in placed:
        tags[first:last] = scheme.labels.index("O")
    return tags


def _sentiments(placed, labels, count):
    """`(count,)` class of the topic or target that each word is of, or -100."""
    classes = np.full(count, IGNORED, dtype=np.int64)
    for first, last, span, cut in placed:
        if span.get("sentiment") is not None and not cut:
            classes[first:last] = labels.index(span["sentiment"])
    return classes


def _placed(spans, units, chunk):
    """`[(first, last, span, cut), ...]` of the spans that reach into the chunk: their words, and whether its border
    cuts them. None where nothing is annotated."""
    if spans is None:
        return None
    placed, end = [], 0
    for span in spans:
        if span["end"] <= chunk.start or span["start"] >= chunk.end:
            continue
        # A span that ends within a word takes the whole word, as the pipeline could only answer whole words.
        first = max(int(np.searchsorted(units[:, 1], span["start"], side="right")), end)
        last = int(np.searchsorted(units[:, 0], span["end"], side="left"))
        if last <= first:
            continue  # no token of its own, or the word belongs to the span before
        end = last
        placed.append((first, last, span, span["start"] < chunk.start or span["end"] > chunk.end))
    return placed


def row_weights(sources: Sequence[str], weights: dict[str, float]) -> np.ndarray:
    """`(rows,)` sampling weight of each row: how often an epoch sees it.

    Args:
        sources: `"source/language"` of each row; a row without a `source` has its file's name without the ending.
        weights: `{name: weight}`, a name being a `source` or a `source/language`. What is not named has weight 1.
    """
    of_name = {name: weights.get(name, weights.get(name.rpartition("/")[0], 1.0)) for name in set(sources)}
    return np.array([of_name[name] for name in sources])


def sample_indices(
    sources: Sequence[str], weights: dict[str, float], seed: int, left_out: Iterable[str] = ()
) -> np.ndarray:
    """Indices of the rows that an epoch sees, by sampling weights.

    A row of weight 2.3 is there twice, and three times with a probability of 0.3, drawn once.

    Args:
        sources, weights: See `row_weights`.
        seed: Random seed for the fractions.
        left_out: Further names that weights may have, of rows that were left out before.

    Raises:
        ValueError: a name that no row has, or a weight that is not a number >= 0.
    """
    names = {*sources, *left_out}
    known = names | {name.rpartition("/")[0] for name in names}
    for name, weight in weights.items():
        if name not in known:
            raise ValueError(f"sampling weight for {name!r}: no such source; there are {', '.join(sorted(known))}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"the sampling weight of {name!r} must be a number >= 0, not {weight}")
    wanted = row_weights(sources, weights)
    times = np.floor(wanted) + (np.random.default_rng(seed).random(len(wanted)) < wanted % 1)
    return np.repeat(np.arange(len(sources)), times.astype(np.int64))


class TSNCollator:
    """Pads features to the batch's longest.

    All label keys are always present, all -100 where nothing is labelled: without them, the trainer's evaluation
    would return neither loss nor metric. `row`, a list, names the rows that the features come from.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer

    def __call__(self, features: Sequence[dict]) -> dict:
        padding = {**padding_values(self.tokenizer), **dict.fromkeys(TOKEN_LABELS, IGNORED)}
        batch: dict[str, Any] = {
            # To the right whatever the tokenizer's side, so that token positions stay what they were.
            name: pad_sequence([torch.as_tensor(feature[name]) for feature in features], True, padding[name])
            for name in (*self.tokenizer.model_input_names, *TOKEN_LABELS)
        }  # (batch, tokens)
        batch["row"] = [feature["row"] for feature in features]
        annotated = [feature["annotated_entity_types"] for feature in features]
        batch["annotated_entity_types"] = torch.tensor(annotated)  # (batch, types)
        batch["sentiment_labels"] = torch.tensor([feature["sentiment_labels"] for feature in features])  # (batch,)
        return batch
