"""Annotated examples: from files or the Hub to rows, from rows to model features, from features to batches.

A row is a dict with `text` and up to three kinds of label, any of them None: `topics: [{start, end}]`,
`entities: [{start, end, label}]`, `sentiment`; and optionally `id`, `source`, `language`. Offsets are in characters.
"""

import ast
import csv
import json
import re
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_dataset
from torch.nn.utils.rnn import pad_sequence

from chunking_tsn import encode_chunks, model_inputs, padding_values, tag_words, token_limit
from configuration_tsn import TSNConfig
from tagging_tsn import first_subtokens

IGNORED = -100
COLUMNS = ("id", "source", "language", "text", "topics", "entities", "sentiment")


class InvalidRow(ValueError):
    """A row that cannot be used; the message names file, row and reason."""


def read_rows(path, config: TSNConfig, split="train", on_invalid=None):
    """Yields the checked rows of a file or data set.

    Args:
        path: A `.parquet`, `.jsonl`/`.json` (JSON Lines) or `.csv` file, or the id of a Hub data set.
        config: Gives the labels that a row may use.
        split: Which split of a Hub data set.
        on_invalid: Called with `(InvalidRow, raw row)` for a bad row, which is then left out. None raises it.

    Raises:
        InvalidRow: a label outside the scheme, a span outside the text, overlapping spans, an unparsable literal...
        FileNotFoundError: `path` names a file that is not there.
    """
    source, entity_types = Path(path).stem, config.entity_scheme().types
    for number, raw in enumerate(_raw_rows(path, split), start=1):
        try:
            if isinstance(raw, Exception):
                raise raw
            row = _checked(raw, config, entity_types)
        except (ValueError, TypeError, KeyError) as error:
            invalid = InvalidRow(f"{path}, row {number}: {error}")
            if on_invalid is None:
                raise invalid from error
            on_invalid(invalid, None if isinstance(raw, Exception) else raw)
            continue
        row["source"] = row["source"] or source
        yield row


def _raw_rows(path, split):
    """Yields each row as a dict, or as the exception that says why it could not be read."""
    path = str(path)
    suffix = Path(path).suffix.lower()
    if suffix not in (".parquet", ".jsonl", ".json", ".csv"):
        if Path(path).exists():
            raise ValueError(f"{path}: the format is not known; use .parquet, .jsonl or .csv")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
            raise FileNotFoundError(f"{path}: no such file, and not the id of a Hub data set")
        yield from load_dataset(path, split=split)
        return
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    yield from {".parquet": _parquet, ".csv": _csv}.get(suffix, _json_lines)(path)


def _parquet(path):
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error
    with file:
        _require_text(path, file.schema_arrow.names)
        for batch in file.iter_batches(1024):
            yield from batch.to_pylist()


def _json_lines(path):
    with open(path, "rb") as lines:  # decoded line by line, so that a bad one is a bad row and not the end
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield ValueError(f"not JSON ({error}); a file holds one JSON object a line")
                continue
            yield row if isinstance(row, dict) else ValueError(f"a JSON object is needed, not {line.strip()[:40]!r}")


def _csv(path):
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        _require_text(path, reader.fieldnames or [])
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield ValueError(f"not CSV ({error})")
                continue
            except UnicodeDecodeError as error:  # what lies behind it cannot be told apart into rows
                raise ValueError(f"{path}: not UTF-8 near line {reader.line_num + 1} ({error})") from error
            if None in row or None in row.values():
                yield ValueError(f"{len(reader.fieldnames)} columns are needed; are commas in quotes?")
                continue
            try:
                yield _from_literals(row)
            except ValueError as error:
                yield error


def _require_text(path, names):
    if "text" not in names:
        raise ValueError(f"{path}: no column 'text' among {', '.join(map(repr, names)) or 'no columns'}")


def _from_literals(row):
    """The simple CSV: `topics` a list of phrases, `ner` a list of (phrase, tag) pairs, `sentiment` 0, 1 or 2."""
    text = row["text"]
    topics, pairs, sentiment = (_literal(row, name) for name in ("topics", "ner", "sentiment"))
    out = {name: row.get(name) or None for name in ("id", "source", "language")}
    out.update(text=text, topics=None, entities=None, sentiment=sentiment)
    if topics is not None:
        if not isinstance(topics, (list, tuple)) or not all(isinstance(phrase, str) for phrase in topics):
            raise ValueError(f"topics must be a list of phrases, not {row['topics']!r}")
        out["topics"] = _occurrences(text, [(phrase, None) for phrase in topics])
    if pairs is not None:
        if not isinstance(pairs, (list, tuple)) or not all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
            for pair in pairs
        ):
            raise ValueError(f"ner must be a list of (phrase, tag) pairs, not {row['ner']!r}")
        out["entities"] = _occurrences(text, [pair for pair in pairs if pair[1] != "O"])
    return out


def _literal(row, name):
    cell = (row.get(name) or "").strip()
    if not cell:
        return None
    try:
        return ast.literal_eval(cell)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        if name == "sentiment":
            return cell  # a class by its name
        raise ValueError(f"{name} is not a Python literal: {cell[:80]!r}") from error


def _occurrences(text, phrases):
    """Every occurrence of each phrase as whole words, longer phrases first, none overlapping another."""
    spans, taken = [], np.zeros(len(text), dtype=bool)
    for phrase, label in sorted(dict.fromkeys(map(tuple, phrases)), key=lambda pair: -len(pair[0])):
        if not phrase.strip():
            raise ValueError("an empty phrase")
        matches = list(re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text))
        if not matches:
            raise ValueError(f"{phrase!r} does not stand in the text")
        for match in matches:
            if not taken[match.start() : match.end()].any():
                taken[match.start() : match.end()] = True
                spans.append({"start": match.start(), "end": match.end(), "label": label})
    return sorted(spans, key=lambda span: span["start"])


def _checked(raw, config, entity_types):
    text = raw.get("text")
    if not isinstance(text, str):  # an empty text is one: it has no words to learn from, and no chunks
        raise ValueError(f"text must be a string, not {type(text).__name__}")
    row = {name: raw.get(name) for name in COLUMNS}
    row["topics"] = _spans(text, raw.get("topics"), "topics", None)
    row["entities"] = _spans(text, raw.get("entities"), "entities", entity_types)
    sentiment = raw.get("sentiment")
    if (
        isinstance(sentiment, int)
        and not isinstance(sentiment, bool)
        and 0 <= sentiment < len(config.sentiment_labels)
    ):
        sentiment = config.sentiment_labels[sentiment]
    if sentiment is not None and sentiment not in config.sentiment_labels:
        raise ValueError(f"sentiment {sentiment!r} is not one of {', '.join(config.sentiment_labels)}")
    row["sentiment"] = sentiment
    return row


def _spans(text, spans, name, types):
    if spans is None:
        return None
    if not isinstance(spans, (list, tuple)):
        raise ValueError(f"{name} must be a list of spans, not {type(spans).__name__}")
    out = []
    for span in spans:
        start, end = (span.get("start"), span.get("end")) if isinstance(span, dict) else (None, None)
        if not all(isinstance(x, int) and not isinstance(x, bool) for x in (start, end)):
            raise ValueError(f"{name}: a span needs a whole-numbered start and end, not {span!r:.80}")
        if not 0 <= start < end <= len(text) or not text[start:end].strip():
            raise ValueError(f"{name}: the span {start}:{end} is empty or outside the text of {len(text)} characters")
        if types is None:
            out.append({"start": start, "end": end})
        elif span.get("label") in types:
            out.append({"start": start, "end": end, "label": span["label"]})
        else:
            raise ValueError(f"{name}: {span.get('label')!r} is not one of {', '.join(types)}")
    out.sort(key=lambda span: (span["start"], span["end"]))
    for left, right in zip(out, out[1:]):
        if right["start"] < left["end"]:
            raise ValueError(
                f"{name}: the spans {left['start']}:{left['end']} and {right['start']}:{right['end']} overlap"
            )
    return out


def rows_to_features(rows, tokenizer, config: TSNConfig, batch_rows=1000):
    """Cuts rows into the chunks that the pipeline would read, and aligns their labels with the tokens.

    A tag sits on the first sub-token of each word, the rest is -100. Every chunk of a text carries its sentiment. The
    words of a span that a chunk's border cuts are -100: half a phrase is no example of a phrase.

    Args:
        rows: Iterable of checked rows, see `read_rows`.
        tokenizer: A fast tokenizer.
        config: Gives labels, chunk size and the most tokens a chunk may have.

    Returns:
        `datasets.Dataset`, a row a chunk: the tokenizer's columns, `topic_labels` and `ner_labels` (a list as long as
        `input_ids`), `sentiment_labels` (a number), `length` in tokens, and `source` as `"source/language"`.
    """
    names = [*tokenizer.model_input_names, "topic_labels", "ner_labels", "sentiment_labels", "length", "source"]
    columns = {name: [] for name in names}
    pending = []
    for row in rows:
        pending.append(row)
        if len(pending) == batch_rows:
            _append_features(columns, pending, tokenizer, config)
            pending = []
    _append_features(columns, pending, tokenizer, config)
    return Dataset.from_dict(columns)


def _append_features(columns, rows, tokenizer, config):
    limit = token_limit(tokenizer, config)
    owners, chunks, encodings = encode_chunks([row["text"] for row in rows], tokenizer, config.chunk_words, 0, limit)
    topic_scheme, entity_scheme = config.topic_scheme(), config.entity_scheme()
    topic_type = topic_scheme.types[0]
    for i, chunk, encoding in zip(owners, chunks, encodings):
        row, length = rows[i], len(encoding)
        positions, units = first_subtokens(tag_words(row["text"][chunk.start : chunk.end]), encoding.offsets)
        units = units + chunk.start
        topics = None if row["topics"] is None else [{**span, "label": topic_type} for span in row["topics"]]
        labels = {
            "topic_labels": _tags(topics, topic_scheme, units, chunk),
            "ner_labels": _tags(row["entities"], entity_scheme, units, chunk),
        }
        for name, tags in labels.items():
            aligned = np.full(length, IGNORED, dtype=np.int64)
            aligned[positions] = tags
            columns[name].append(aligned)
        sentiment = row["sentiment"]
        columns["sentiment_labels"].append(IGNORED if sentiment is None else config.sentiment_labels.index(sentiment))
        inputs = model_inputs(encoding)
        for name in tokenizer.model_input_names:
            columns[name].append(inputs[name])
        columns["length"].append(length)
        columns["source"].append(f"{row['source']}/{row['language']}")


def _tags(spans, scheme, units, chunk):
    """`(units,)` tag indices, or -100 where nothing is known."""
    if spans is None:
        return IGNORED
    inside, cut = [], []
    end = 0
    for span in spans:
        if span["end"] <= chunk.start or span["start"] >= chunk.end:
            continue
        # A span that ends within a word takes the whole word, as the pipeline could only answer whole words.
        first = max(int(np.searchsorted(units[:, 1], span["start"], side="right")), end)
        last = int(np.searchsorted(units[:, 0], span["end"], side="left"))
        if last <= first:
            continue  # no token of its own, or the word belongs to the span before
        end = last
        if span["start"] < chunk.start or span["end"] > chunk.end:
            cut.append((first, last))
        else:
            inside.append((first, last, span["label"]))
    tags = scheme.encode(inside, len(units))
    for first, last in cut:
        tags[first:last] = IGNORED
    return tags


def row_weights(sources, weights):
    """`(rows,)` sampling weight of each row: how often an epoch sees it.

    Args:
        sources: `"source/language"` of each row; a row without a `source` has its file's name without the ending.
        weights: `{name: weight}`, a name being a `source` or a `source/language`. What is not named has weight 1.
    """
    of_name = {name: weights.get(name, weights.get(name.rpartition("/")[0], 1.0)) for name in set(sources)}
    return np.array([of_name[name] for name in sources])


def sample_indices(sources, weights, seed):
    """Which rows an epoch sees, by sampling weights; of a weight's fraction a random part is drawn once.

    Args:
        sources, weights: See `row_weights`.
        seed: Of the draw.

    Raises:
        ValueError: a name that no row has, or a weight that is not a number >= 0.
    """
    known = set(sources) | {name.rpartition("/")[0] for name in sources}
    for name, weight in weights.items():
        if name not in known:
            raise ValueError(f"sampling weight for {name!r}: no such source; there are {', '.join(sorted(known))}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"the sampling weight of {name!r} must be a number >= 0, not {weight}")
    weight = row_weights(sources, weights)
    times = np.floor(weight) + (np.random.default_rng(seed).random(len(weight)) < weight % 1)
    return np.repeat(np.arange(len(sources)), times.astype(np.int64))


class TSNCollator:
    """Pads features to the batch's longest.

    All three label keys are always there, all -100 for a head without labels: without them, the trainer's evaluation
    would return neither loss nor metric.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, features):
        padding = {**padding_values(self.tokenizer), "topic_labels": IGNORED, "ner_labels": IGNORED}
        batch = {
            # To the right whatever the tokenizer's side, so that token positions stay what they were.
            name: pad_sequence([torch.as_tensor(feature[name]) for feature in features], True, padding[name])
            for name in (*self.tokenizer.model_input_names, "topic_labels", "ner_labels")
        }  # (batch, tokens)
        batch["sentiment_labels"] = torch.tensor([feature["sentiment_labels"] for feature in features])  # (batch,)
        return batch
