"""Annotated examples: from files or the Hub to checked rows.

A row is a dict with `text` and up to four kinds of label, any of them None: `topics: [{start, end, sentiment}]`,
where a topic's sentiment may be None or left out, `entities: [{start, end, label}]`, `sentiment`, and
`targets: [{start, end, sentiment}]`, spans whose sentiment is known and that say nothing about which words are topics;
`entity_types`, the types that were annotated in this row (None: all of the model's); and optionally `id`, `source`,
`language`. Offsets are in characters.
"""

import ast
import difflib
import logging
import re
from pathlib import Path

import numpy as np

from configuration_tsn import TSNConfig
from tsn.data.files import READABLE, reads_once, suffix_of
from tsn.data.readers import BadRow, open_rows

COLUMNS = ("id", "source", "language", "text", "topics", "entities", "sentiment", "targets", "entity_types")
CSV_COLUMNS = ("id", "source", "language", "text", "topics", "ner", "sentiment")
_OTHER_NAMES = {  # what people and other tools call the columns
    "sentiment": ("label", "labels", "polarity"),
    "entities": ("ner", "ner_tags", "spans", "named_entities"),
    "ner": ("entities", "ner_tags", "named_entities"),
    "topics": ("keyphrases", "keywords", "aspects", "phrases", "tags"),
    "language": ("lang", "locale"),
}
logger = logging.getLogger("tsn.data")


class InvalidRow(ValueError):
    """A row that cannot be used; the message names file, row and reason."""


def read_rows(path, config: TSNConfig, split="train", on_invalid=None, streaming=False):
    """Yields the checked rows of a file or data set, each with a name in `row`: its `id`, or file and number.

    Columns that are not read are named in one warning for each file.

    Args:
        path: A file of CSV, JSON Lines, JSON or Parquet as `tsn.data.readers` reads them, or a Hub data set's id.
        config: Gives the labels that a row may use.
        split: Which split of a Hub data set.
        on_invalid: Called with `(InvalidRow, raw row)` for a bad row, which is then left out. None raises it.
        streaming: Rows are read again for each epoch, a Hub data set's while it is downloaded.

    Raises:
        InvalidRow: a label outside the scheme, a span outside the text, overlapping spans, an unparsable literal...
        FileNotFoundError: `path` names a file that does not exist.
        ValueError: the file as a whole cannot be read.
    """
    if streaming and reads_once(path):
        raise ValueError(f"{path} can be read only once, and streaming reads it for each epoch: save it as a file")
    kind, rows = open_rows(path, split=split, streaming=streaming)
    if kind == "text":
        raise ValueError(f"{path}: plain text is a format without annotations; {READABLE.replace(', .txt', '')}")
    columns = CSV_COLUMNS if kind == "csv" else COLUMNS
    source, entity_types, warned = _name(path), config.entity_scheme().types, False
    for number, raw in enumerate(rows, start=1):
        place, bad = f"{path}, row {number}", isinstance(raw, BadRow)
        if not bad and not warned and (unknown := [name for name in raw if name not in columns]):
            warned = True
            logger.warning("%s: %s", path, _unknown_columns(unknown, raw, columns))
        try:
            if bad:
                raise ValueError(raw.error)
            row = _checked(_from_literals(raw) if kind == "csv" else raw, config, entity_types)
        except (ValueError, TypeError, KeyError) as error:
            invalid = InvalidRow(f"{place}: {error}")
            if on_invalid is None:
                raise invalid from error
            on_invalid(invalid, (raw.columns or None) if bad else raw)
            continue
        row["source"] = row["source"] or source
        row["row"] = place if row["id"] is None else f"{place} (id {row['id']})"
        yield row


def _name(path):
    """A file's or data set's name without its suffixes."""
    if str(path) == "-":
        return "stdin"
    name, suffix = Path(path).name, suffix_of(path)
    return name[: name.lower().rindex(suffix)] if suffix else Path(path).stem


def _unknown_columns(unknown, row, columns):
    """Names columns that are not read, and those that were probably meant, if the row lacks them."""
    parts, columns = [], [column for column in columns if column not in row]
    for name in unknown:
        meant = next((column for column in columns if str(name).lower() in _OTHER_NAMES.get(column, ())), None)
        meant = meant or next(iter(difflib.get_close_matches(str(name).lower(), columns, 1, 0.8)), None)
        parts.append(f"{name!r} (did you mean {meant!r}?)" if meant else repr(name))
    return f"column{'s' * (len(parts) > 1)} not read: {', '.join(parts)}"


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
    if not types:
        raise ValueError(f"entities: {entity.get('label')!r} is not an annotated type: entity_types is empty")
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
