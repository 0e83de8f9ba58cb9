"""Annotated examples: from files or the Hub to checked rows.

A row is a dict with `text` and up to four kinds of label, any of them None: `topics: [{start, end, sentiment}]`,
where a topic's sentiment may be None or left out, `entities: [{start, end, label}]`, `sentiment`, and
`targets: [{start, end, sentiment}]`, spans whose sentiment is known and that say nothing about which words are topics;
`entity_types`, the types that were annotated in this row (None: all of the model's); and optionally `id`, `source`,
`language`. Offsets are in characters.
"""

import ast
import csv
import json
import re
from pathlib import Path

import numpy as np
from datasets import load_dataset

from configuration_tsn import TSNConfig
from tsn.data.readers import csv_cells

COLUMNS = ("id", "source", "language", "text", "topics", "entities", "sentiment", "targets", "entity_types")


class InvalidRow(ValueError):
    """A row that cannot be used; the message names file, row and reason."""


def read_rows(path, config: TSNConfig, split="train", on_invalid=None, streaming=False):
    """Yields the checked rows of a file or data set, each with a name in `row`: its `id`, or file and number.

    Args:
        path: A `.parquet`, `.jsonl`/`.json` (JSON Lines) or `.csv` file, or the id of a Hub data set.
        config: Gives the labels that a row may use.
        split: Which split of a Hub data set.
        on_invalid: Called with `(InvalidRow, raw row)` for a bad row, which is then left out. None raises it.
        streaming: Read a Hub data set while it is downloaded.

    Raises:
        InvalidRow: a label outside the scheme, a span outside the text, overlapping spans, an unparsable literal...
        FileNotFoundError: `path` names a file that is not there.
    """
    source, entity_types = Path(path).stem, config.entity_scheme().types
    for number, raw in enumerate(_raw_rows(path, split, streaming), start=1):
        place = f"{path}, row {number}"
        try:
            if isinstance(raw, Exception):
                raise raw
            row = _checked(raw, config, entity_types)
        except (ValueError, TypeError, KeyError) as error:
            invalid = InvalidRow(f"{place}: {error}")
            if on_invalid is None:
                raise invalid from error
            on_invalid(invalid, None if isinstance(raw, Exception) else raw)
            continue
        row["source"] = row["source"] or source
        row["row"] = place if row["id"] is None else f"{place} (id {row['id']})"
        yield row


def _raw_rows(path, split, streaming):
    """Yields each row as a dict, or as the exception that says why it could not be read."""
    path = str(path)
    suffix = Path(path).suffix.lower()
    if suffix not in (".parquet", ".jsonl", ".json", ".csv"):
        if Path(path).exists():
            raise ValueError(f"{path}: the format is not known; use .parquet, .jsonl or .csv")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
            raise FileNotFoundError(f"{path}: no such file, and not the id of a Hub data set")
        yield from load_dataset(path, split=split, streaming=streaming)
        return
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    yield from {".parquet": _parquet, ".csv": _csv}.get(suffix, _json_lines)(path)


def _parquet(path):
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require_text(path, file.schema_arrow.names)
            for batch in file.iter_batches(1024):
                yield from _batch_rows(batch)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:  # also a column's name may be undecodable
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error


def _batch_rows(batch):
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, a date out of Python's range
        for i in range(batch.num_rows):
            try:
                (row,) = batch.slice(i, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                row = ValueError(f"a value cannot be read ({error})")
            yield row


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
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
            _require_text(path, header)
            for cells in csv_cells(path, reader):
                if isinstance(cells, Exception):
                    yield cells
                elif cells:  # else it is a blank line
                    yield _csv_row(cells, header)
        except UnicodeDecodeError as error:  # what lies behind it cannot be told apart into rows
            raise ValueError(f"{path}: not UTF-8 near line {reader.line_num + 1} ({error})") from error
        except csv.Error as error:
            raise ValueError(f"{path}: the header is not CSV ({error})") from error


def _csv_row(cells, header):
    if len(cells) != len(header):
        return ValueError(f"{len(header)} columns are needed; are commas in quotes?")
    try:
        return _from_literals(dict(zip(header, cells)))
    except ValueError as error:
        return error


def _require_text(path, names):
    shown = ", ".join(map(repr, names)) or "no columns"
    if "text" not in names:
        raise ValueError(f"{path}: no column 'text' among {shown}")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two columns have the same name ({shown})")


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
    labels = config.sentiment_labels
    row["topics"] = _spans(text, raw.get("topics"), "topics", lambda topic: _span_sentiment("topics", topic, labels))
    row["targets"] = _spans(text, raw.get("targets"), "targets", lambda target: _target_sentiment(target, labels))
    row["entity_types"] = annotated = _annotated_types(raw.get("entity_types"), entity_types)
    types = entity_types if annotated is None else annotated
    row["entities"] = _spans(text, raw.get("entities"), "entities", lambda entity: _entity_type(entity, types))
    row["sentiment"] = _sentiment(raw.get("sentiment"), labels)
    return row


def _annotated_types(value, types):
    """The annotated types in the model's order, or None for all of them."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"entity_types must be a list of entity types, not {value!r:.80}")
    unknown = [name for name in value if name not in types]
    if unknown:
        raise ValueError(f"entity_types: {unknown[0]!r:.80} is not one of {', '.join(types)}")
    return None if set(value) == set(types) else [name for name in types if name in value]


def _sentiment(value, labels):
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(labels):
        return labels[value]
    if value is not None and value not in labels:
        raise ValueError(f"sentiment {value!r} is not one of {', '.join(labels)}")
    return value


def _span_sentiment(name, span, labels):
    try:
        return {"sentiment": _sentiment(span.get("sentiment"), labels)}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _target_sentiment(target, labels):
    if target.get("sentiment") is None:
        raise ValueError(f"targets: the span {target['start']}:{target['end']} has no sentiment")
    return _span_sentiment("targets", target, labels)


def _entity_type(entity, types):
    if entity.get("label") not in types:
        raise ValueError(f"entities: {entity.get('label')!r} is not one of {', '.join(types)}")
    return {"label": entity["label"]}


def _spans(text, spans, name, read):
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
        out.append({"start": start, "end": end, **read(span)})
    out.sort(key=lambda span: (span["start"], span["end"]))
    for left, right in zip(out, out[1:]):
        if right["start"] < left["end"]:
            raise ValueError(
                f"{name}: the spans {left['start']}:{left['end']} and {right['start']}:{right['end']} overlap"
            )
    return out
