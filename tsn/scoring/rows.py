"""Rows to score: from CSV, JSON Lines, Parquet, plain text or a Hub data set, none left out.

Unlike `tsn.data.annotated`, which reads annotated data and stops at a bad row, this keeps every row: one that cannot
be scored says why.
"""

import csv
import json
import re
from pathlib import Path
from typing import NamedTuple

from tsn.data.readers import csv_cells

MAX_CELL = 2**26  # characters of a CSV cell
MAX_DEPTH = 100  # of nested JSON; more cannot be sent to another process
_UNDECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8


class Row(NamedTuple):
    """A row: its columns, its text, and why it cannot be scored, in which case `text` is None."""

    columns: dict
    text: str | None
    error: str | None


def read_table(path, text_column="text", split="train"):
    """Yields a [`Row`] for each row, in order.

    Args:
        path: A `.csv`, `.jsonl`, `.json` (JSON Lines), `.parquet` or `.txt` file (a text a line, under `text_column`),
            or the id of a Hub data set.
        text_column: Holds the texts.
        split: Which split of a Hub data set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file as a whole cannot be read, or has no such column; the message names it.
    """
    path = str(path)
    suffix = Path(path).suffix.lower()
    read = _FORMATS.get(suffix)
    if is_hub_id(path):
        yield from _hub(path, text_column, split)
        return
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if read is None:
        raise ValueError(f"{path}: the format is not known; use .csv, .jsonl, .parquet or .txt")
    yield from read(path, text_column)


def is_hub_id(path):
    """Whether this is a Hub data set's id rather than a file's path."""
    known = Path(path).suffix.lower() in (*_FORMATS, ".tsv", ".xlsx", ".gz", ".zip")
    return not known and not Path(path).exists() and bool(re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(path)))


def _row(columns, text_column):
    if text_column not in columns:
        return Row(columns, None, f"there is no {text_column!r} in it")
    text = columns[text_column]
    if not isinstance(text, str):
        what = "null" if text is None else f"{type(text).__name__}, not text"
        return Row(columns, None, f"{text_column} is {what}")
    return Row(columns, text, None)


def _text(path, text_column):
    with open(path, "rb") as lines:
        for number, line in enumerate(lines):
            line = line[3:] if number == 0 and line.startswith(b"\xef\xbb\xbf") else line
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            try:
                yield _row({text_column: line.decode("utf-8")}, text_column)
            except UnicodeDecodeError as error:
                shown = line.decode("utf-8", "backslashreplace")
                yield Row({text_column: shown}, None, f"not UTF-8 at byte {error.start} of the line")


def _json_lines(path, text_column):
    with open(path, "rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                columns = json.loads(line.decode("utf-8-sig"), parse_constant=lambda _: None)
            except (ValueError, RecursionError) as error:
                yield Row({}, None, f"not a line of JSON ({error})")
                continue
            if isinstance(columns, dict) and _depth(columns) > MAX_DEPTH:
                yield Row({}, None, f"JSON that is nested more than {MAX_DEPTH} deep")
            elif isinstance(columns, dict):
                yield _row(columns, text_column)
            else:
                yield Row({}, None, f"a JSON object is needed, not {type(columns).__name__}")


def _depth(value):
    """How deep lists and objects are nested."""
    depth, level = 0, [value]
    while level:
        depth += 1
        nested = [v for v in level if isinstance(v, (dict, list))]
        level = [inner for v in nested for inner in (v.values() if isinstance(v, dict) else v)]
    return depth


def _csv(path, text_column):
    csv.field_size_limit(MAX_CELL)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise ValueError(f"{path}: the header is not CSV ({error})") from error
        if text_column not in header:
            raise ValueError(f"{path}: no column {text_column!r} among {', '.join(map(repr, header)) or 'no columns'}")
        if len(set(header)) < len(header):
            raise ValueError(f"{path}: two columns have the same name ({', '.join(map(repr, header))})")
        for cells in csv_cells(path, reader):
            if isinstance(cells, Exception):
                yield Row({}, None, str(cells))
            elif cells or len(header) == 1:  # else it is a blank line
                yield _csv_row(header, cells or [""], text_column)


def _csv_row(header, cells, text_column):
    undecoded = any(_UNDECODED.search(cell) for cell in cells)
    if undecoded:
        raw = (cell.encode("utf-8", "surrogateescape") for cell in cells)
        cells = [cell.decode("utf-8", "backslashreplace") for cell in raw]
    columns = {name: cells[i] if i < len(cells) else None for i, name in enumerate(header)}
    if len(cells) != len(header):
        surplus = f": {cells[len(header) :]!r:.200}" if len(cells) > len(header) else ""
        return Row(columns, None, f"{len(cells)} cells under a header of {len(header)}{surplus}")
    return Row(columns, None, "bytes that are not UTF-8") if undecoded else _row(columns, text_column)


def _parquet(path, text_column):
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_column not in names:
                raise ValueError(f"{path}: no column {text_column!r} among {', '.join(map(repr, names))}")
            if len(set(names)) < len(names):
                raise ValueError(f"{path}: two columns have the same name ({', '.join(map(repr, names))})")
            for batch in file.iter_batches(1024):
                yield from _batch_rows(batch, text_column)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:  # also a column's name may be undecodable
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error


def _batch_rows(batch, text_column):
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, a date out of Python's range
        yield from (_cell_by_cell(batch, i, text_column) for i in range(batch.num_rows))
        return
    for columns in rows:
        yield _row(columns, text_column)


def _cell_by_cell(batch, i, text_column):
    columns, errors = {}, []
    for name, column in zip(batch.schema.names, batch.columns):
        try:
            columns[name] = column[i].as_py()
        except (ValueError, OverflowError) as error:
            columns[name] = None
            errors.append(f"{name} cannot be read ({error})")
    return Row(columns, None, "; ".join(errors)) if errors else _row(columns, text_column)


def _hub(path, text_column, split):
    from datasets import load_dataset

    for columns in load_dataset(path, split=split, streaming=True):
        yield _row(dict(columns), text_column)


_FORMATS = {".csv": _csv, ".jsonl": _json_lines, ".json": _json_lines, ".parquet": _parquet, ".txt": _text}
