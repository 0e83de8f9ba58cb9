"""Rows of CSV, JSON, Parquet and text files, and of Hub data sets: each a dict, or the reason why it is none.

`tsn.data.annotated` stops at a bad row or leaves it out, `tsn.scoring.rows` keeps it. Whatever the format, only a few
rows are in memory at a time.
"""

import csv
import io
import json
import lzma
import re
import zlib
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tsn.data.files import HEAD, READABLE, csv_delimiter, is_hub_id, is_json_document, open_file, suffix_of

MAX_CELL = 2**26  # characters of a CSV cell
MAX_DEPTH = 100  # of nested JSON; more cannot be sent to another process
_BATCH = 1024  # rows of Parquet that are converted at once
_SPACE = re.compile(r"\s*")
_UNDECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8


class BadRow(NamedTuple):
    """A row that cannot be used: why, and those of its columns that could be read."""

    error: str
    columns: dict


class ArrowRow(dict):
    """A row of a Parquet file as Python's values, and where Arrow holds its exact ones: row `index` of `batch`."""

    __slots__ = ("batch", "index")

    def __init__(self, columns, batch, index):
        super().__init__(columns)
        self.batch, self.index = batch, index


def open_rows(path, column="text", split="train", streaming=False):
    """`(format, rows)`: `"csv"`, `"jsonl"`, `"json"`, `"parquet"`, `"text"` or `"hub"`, and an iterator over its rows.

    Args:
        path: Of a file, of a folder of Parquet files, or of a pipe; `-` for standard input; or a Hub data set's id.
        column: Holds the texts. CSV and Parquet must have it; a text file's lines go under this name.
        split: Which split of a Hub data set.
        streaming: Read a Hub data set while it is downloaded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file as a whole cannot be read; the message names it. The iterator may raise it, too.
    """
    if is_hub_id(path):
        from datasets import load_dataset

        return "hub", load_dataset(str(path), split=split, streaming=streaming)
    if str(path) != "-" and not Path(path).exists():
        what = "" if suffix_of(path) else ", and not the id of a Hub data set"
        raise FileNotFoundError(f"{path}: no such file{what}")
    if Path(path).is_dir():
        return "parquet", _parquet_folder(path, column)
    try:
        kind, file = open_file(path, column)
    except _DAMAGED as error:
        raise _named(path, error) from error
    return kind, _whole(path, file, _READERS[kind](path, file, column))


_DAMAGED = (EOFError, OSError, UnicodeDecodeError, zlib.error, lzma.LZMAError)


def _named(path, error):
    """What unpacking or decoding raised, with the file's name; an error of the system has it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return ValueError(f"{path} is damaged or incomplete ({error})")


def _whole(path, file, rows):
    """The rows, if no packed or encoded data end too early."""
    with closing(file):
        try:
            yield from rows
        except _DAMAGED as error:
            raise _named(path, error) from error


def _require_column(path, names, column):
    shown = ", ".join(map(repr, names)) or "no columns"
    if column not in names:
        raise ValueError(f"{path}: no column {column!r} among {shown}")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two columns have the same name ({shown})")


# Text


def _text(path, file, column):
    for line in file:
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield {column: line.decode("utf-8")}
        except UnicodeDecodeError as error:
            shown = line.decode("utf-8", "backslashreplace")
            yield BadRow(f"not UTF-8 at byte {error.start} of the line", {column: shown})


# CSV


def _csv(path, file, column):
    csv.field_size_limit(MAX_CELL)
    head = file.peek(HEAD).decode("utf-8", "replace")
    delimiter = csv_delimiter(head, column, "\t" if suffix_of(path) == ".tsv" else ",")
    with io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise ValueError(f"{path}: the header is not CSV ({error})") from error
        if any(map(_UNDECODED.search, header)):
            raise ValueError(f"{path}: not UTF-8 near line {reader.line_num}")
        _require_column(path, header, column)
        for cells in _csv_cells(path, reader):
            if isinstance(cells, BadRow):
                yield cells
            elif cells or len(header) == 1:  # otherwise it is a blank line
                yield _csv_row(header, cells or [""])


def _csv_cells(path, reader):
    """Yields the cells of each row, none for a blank line, or a `BadRow`.

    Raises:
        ValueError: a quote is never closed, so that what follows cannot be told apart into rows.
    """
    while True:
        start = reader.line_num + 1
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > start or "unexpected end" in str(error):
                raise ValueError(
                    f"{path}: a quote that opens in the row of line {start} is never closed, or not before a "
                    f"delimiter ({error}); what follows cannot be told apart into rows"
                ) from error
            yield BadRow(f"line {start} is not CSV ({error})", {})


def _csv_row(header, cells):
    undecoded = any(map(_UNDECODED.search, cells))
    if undecoded:
        raw = (cell.encode("utf-8", "surrogateescape") for cell in cells)
        cells = [cell.decode("utf-8", "backslashreplace") for cell in raw]
    columns = {name: cells[i] if i < len(cells) else None for i, name in enumerate(header)}
    if len(cells) != len(header):
        surplus = f": {cells[len(header) :]!r:.200}" if len(cells) > len(header) else ""
        count = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
        return BadRow(f"{count} under a header of {len(header)} columns{surplus}", columns)
    return BadRow("bytes that are not UTF-8", columns) if undecoded else columns


# JSON


def _json(path, file, kind):
    document = is_json_document(file.peek(HEAD).decode("utf-8", "replace"), kind)
    yield from _json_document(path, file) if document else _json_lines(file)


def _json_lines(file):
    for line in file:  # decoded line by line, so that a bad one is a bad row and not the end
        if line.strip():
            try:
                yield _json_row(_JSON.decode(line.decode("utf-8-sig").strip()))
            except (ValueError, RecursionError) as error:
                yield BadRow(f"not a line of JSON ({error})", {})


def _json_document(path, file):
    """Yields the rows of arrays of objects, and of objects that go over several lines."""
    with io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="") as text:
        values = _Values(path, text)
        while char := values.next_character():
            if char != "[":
                yield values.row()
                continue
            values.skip("[")
            if values.next_character() != "]":
                yield values.row()
            while values.next_character() != "]":
                values.skip(",")
                yield values.row()
            values.skip("]")


class _Values:
    """Takes JSON values out of a text of any length, of which it holds no more than the longest value needs."""

    def __init__(self, path, text):
        self.path, self.text = path, text
        self.buffer, self.at, self.line, self.ended = "", 0, 1, False

    def next_character(self):
        """The first character that is no white space, or `""` at the end; stays in front of it."""
        while True:
            place = _SPACE.match(self.buffer, self.at).end()
            self._advance(place)
            if place < len(self.buffer) or self.ended:
                return self.buffer[place : place + 1]
            self._read()

    def skip(self, character):
        if (found := self.next_character()) != character:
            raise self._error(f"{character!r} is missing before {found!r}" if found else "the array is never closed")
        self._advance(self.at + 1)

    def row(self):
        """The next value as a row."""
        self.next_character()
        while True:
            try:
                value, end = _JSON.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                cut_off = error.pos > len(self.buffer) - 16 or error.msg.startswith("Unterminated string")
                if self.ended or not cut_off:  # nothing that is read on would mend it
                    raise self._error(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:  # a number of too many digits, nested too deep
                raise self._error(error) from error
            else:
                if end < len(self.buffer) or self.ended:  # otherwise a number may go on
                    break
            self._read()
        undecoded = _UNDECODED.search(self.buffer, self.at, end)
        self._advance(end)
        return BadRow("bytes that are not UTF-8", {}) if undecoded else _json_row(value)

    def _read(self):
        """Reads as much again, so that a long value is not parsed too often."""
        more = self.text.read(max(len(self.buffer) - self.at, HEAD))
        self.buffer, self.at, self.ended = self.buffer[self.at :] + more, 0, not more

    def _advance(self, place):
        self.line += self.buffer.count("\n", self.at, place)
        self.at = place

    def _error(self, reason, place=None):
        line = self.line + self.buffer.count("\n", self.at, self.at if place is None else place)
        return ValueError(
            f"{self.path}, line {line}: not JSON ({reason}); what follows cannot be told apart into rows"
        )


_JSON = json.JSONDecoder(parse_constant=lambda _: None)  # NaN is how some programs write that a value is missing


def _json_row(value):
    if not isinstance(value, dict):
        return BadRow(f"a JSON object is needed, not {type(value).__name__}", {})
    return BadRow(f"JSON that is nested more than {MAX_DEPTH} deep", {}) if _depth(value) > MAX_DEPTH else value


def _depth(value):
    """How deep lists and objects are nested."""
    depth, level = 0, [value]
    while level:
        depth += 1
        nested = [v for v in level if isinstance(v, (dict, list))]
        level = [inner for v in nested for inner in (v.values() if isinstance(v, dict) else v)]
    return depth


# Parquet


def _parquet(path, source, column, partition=None):
    """Yields an [`ArrowRow`] for each row. `partition`: Arrow scalars of the columns that its folders' names give."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            added = {name: value for name, value in (partition or {}).items() if name not in file.schema_arrow.names}
            _require_column(path, [*file.schema_arrow.names, *added], column)
            for batch in file.iter_batches(_BATCH):
                for name, value in added.items():
                    batch = batch.append_column(name, pyarrow.repeat(value, batch.num_rows))
                yield from _batch_rows(batch, column)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:  # also a column's name may be undecodable
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error


def _batch_rows(batch, column):
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8, a date out of Python's range
        yield from (_cell_by_cell(batch, index, column) for index in range(batch.num_rows))
        return
    yield from (ArrowRow(columns, batch, index) for index, columns in enumerate(rows))


def _cell_by_cell(batch, index, column):
    """A row some of whose cells Python has no value for: they become Arrow's text, and an error if `column` is one."""
    columns, errors = {}, {}
    for name, values in zip(batch.schema.names, batch.columns):
        try:
            columns[name] = values[index].as_py()
        except (ValueError, OverflowError) as error:
            columns[name] = None if name == column else _arrow_text(values[index])
            errors[name] = f"{name} cannot be read ({error})"
    row = ArrowRow(columns, batch, index)
    return BadRow("; ".join(errors.values()), row) if column in errors else row


def _arrow_text(value):
    import pyarrow

    try:
        if pyarrow.types.is_string(value.type) or pyarrow.types.is_large_string(value.type):
            return value.as_buffer().to_pybytes().decode("utf-8", "backslashreplace")
        return value.cast(pyarrow.string()).as_py()
    except (pyarrow.ArrowException, ValueError):
        return f"a {value.type} that cannot be shown"


def _parquet_folder(path, column):
    """The rows of a folder's Parquet files in order of their names, with columns for folders named `key=value`."""
    import pyarrow.dataset

    folder = Path(path)
    versioned = [folder / "_delta_log", folder / ".hoodie", *folder.glob("metadata/*.metadata.json")]
    if any(part.exists() for part in versioned):
        raise ValueError(f"{path} is a Delta, Hudi or Iceberg table, whose log says which files count: export it")
    names = sorted(file for file in folder.rglob("*.parquet") if file.is_file() and not _hidden(file, folder))
    if not names:
        raise ValueError(f"{path}: a folder without a .parquet file; {READABLE}")
    try:
        table = pyarrow.dataset.dataset(
            list(map(str, names)), format="parquet", partitioning="hive", partition_base_dir=str(folder)
        )
        fragments = list(table.get_fragments())
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not a readable folder of Parquet files ({error})") from error
    for fragment in fragments:
        keys = pyarrow.dataset.get_partition_keys(fragment.partition_expression)
        partition = {name: pyarrow.scalar(value, table.schema.field(name).type) for name, value in keys.items()}
        yield from _parquet(fragment.path, fragment.path, column, partition)


def _hidden(file, folder):
    """Whether it is one of the files that writers of tables keep for themselves."""
    return any(part.startswith(("_", ".")) and "=" not in part for part in file.relative_to(folder).parts)


_READERS = {
    "csv": _csv,
    "json": lambda path, file, _: _json(path, file, "json"),
    "jsonl": lambda path, file, _: _json(path, file, "jsonl"),
    "parquet": _parquet,
    "text": _text,
}
