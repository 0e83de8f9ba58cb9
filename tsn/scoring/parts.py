"""Output in verified parts: what is done stays done, whatever ends the run, and the whole comes out as in one go.

Beside the output, in a folder of its name and `.parts`, each part is a file of rows and a note of its SHA-256, of that
of the rows that it was made of, and of what is summed up of it. The note is written last: a part without one is not
there.
"""

import base64
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from itertools import groupby
from pathlib import Path

from tsn.data.readers import ArrowRow

NEW_COLUMNS = ("topics", "entities", "sentiment", "sentiment_scores", "error")
GROUP_PARTS = 50  # parts of a row group of Parquet: a group for each would grow the file's index without end
SPAN_FIELDS = {"word": "string", "score": "double", "start": "int64", "end": "int64"}
SPAN_FIELDS |= {"sentiment": "string", "sentiment_score": "double"}


class Parts:
    """The parts of one output.

    Args:
        output: The file that they become.
        settings: What the rows depend on besides the input, as JSON takes it.

    Raises:
        ValueError: there are parts of other settings, or another run is writing them.
    """

    def __init__(self, output, settings):
        self.output = Path(output)
        self.folder = self.output.with_name(f"{self.output.name}.parts")
        shutil.rmtree(self._done, ignore_errors=True)  # of a run that ended while it was tidying up
        self.folder.mkdir(exist_ok=True)
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115 (held as long as the run)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{self.folder}: another run is writing these parts") from error
        note, begun = self.folder / "settings.json", any(self.folder.glob("[0-9]*.json"))
        if self.output.exists() and not begun:
            shutil.rmtree(self.folder)
            raise ValueError(f"{self.output} is there already: delete it to score again")
        if begun and note.exists() and json.loads(note.read_text("utf-8")) != settings:
            raise ValueError(
                f"{self.folder} is of a run with other options or another model: go on as it began, or delete it"
            )
        write_file(note, json.dumps(settings).encode())

    @property
    def _done(self):
        return self.output.with_name(f"{self.output.name}.done")

    def path(self, index):
        return self.folder / f"{index:07}{self.output.suffix}"

    def is_finished(self, index, rows_digest):
        """Whether a part is there, whole, and made of these rows.

        Raises:
            ValueError: it was made of other rows.
        """
        path, note = self.path(index), self.path(index).with_suffix(".json")
        try:
            found = json.loads(note.read_text("utf-8"))
            if found["sha256"] != hashlib.sha256(path.read_bytes()).hexdigest():
                return False
        except (OSError, ValueError, KeyError):
            return False
        if found["rows_sha256"] != rows_digest:
            raise ValueError(f"the input has changed since {path} was made of it: delete {self.folder} to begin anew")
        return True

    def summaries(self, count):
        """Yields what is summed up of each part, one at a time."""
        for index in range(count):
            yield json.loads(self.path(index).with_suffix(".json").read_text("utf-8"))["summary"]

    def examples(self, count, text_column, most=8):
        """`(text, row)` of the first row with topics or entities of each of some parts, spread over all."""
        examples = []
        for index in range(0, count, -(-count // most) if count else 1):
            row = _first_example(self.path(index), text_column)
            if row is not None:
                examples.append((row[text_column], row))
        return examples

    def join(self, count):
        """Puts the parts together to the output, at once, and removes them."""
        unfinished = self.folder / f"joined{self.output.suffix}"
        paths = [self.path(index) for index in range(count)]
        if self.output.suffix == ".parquet":
            _join_parquet(paths, unfinished)
        else:
            with unfinished.open("wb") as target:
                for path in paths:
                    with path.open("rb") as part:
                        shutil.copyfileobj(part, target, 1 << 20)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, self.output)
        os.replace(self.folder, self._done)  # at once: a part that is gone would be scored again
        shutil.rmtree(self._done)


def output_names(names):
    """What columns of the input are called in the output, whose own columns have the names of `NEW_COLUMNS`."""
    kept = []
    for name in names:
        name = f"input_{name}" if name in NEW_COLUMNS else name
        while name in kept:
            name = f"input_{name}"
        kept.append(name)
    return kept


def split_columns(rows, suffix):
    """`(rows, columns)`: what a worker needs of a part.

    Args:
        rows: Of `tsn.scoring.rows.read_table`.
        suffix: Of the output.

    Returns:
        tuple: If Parquet becomes Parquet, the rows without their columns, and these as an Arrow stream, whose values
        come out exactly as they went in. Otherwise the rows with their columns, and None.
    """
    if suffix != ".parquet" or not any(isinstance(row.columns, ArrowRow) for row in rows):
        return [row._replace(columns=dict(row.columns)) for row in rows], None
    import pyarrow as pa

    tables = []
    for _, run in groupby(rows, lambda row: id(getattr(row.columns, "batch", None))):
        run = [row.columns for row in run]
        if isinstance(run[0], ArrowRow):
            batch = run[0].batch.slice(run[0].index, len(run))  # rows of a batch follow each other
            tables.append(pa.Table.from_batches([batch]).replace_schema_metadata())
        else:  # of an input that is not Parquet
            tables.append(_arrow_table(run, {}))
    table = _concatenated(tables)
    table = table.rename_columns(output_names(table.schema.names))
    sink = pa.BufferOutputStream()  # pickled, a slice would bring the whole batch along
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return [row._replace(columns={}) for row in rows], sink.getvalue().to_pybytes()


def part_content(results, suffix, columns=None):
    """The bytes of a part's file.

    Args:
        results: Dicts.
        suffix: `.parquet` or `.jsonl`.
        columns: Of `split_columns`: what stands before them.

    Raises:
        ValueError: the rows do not fit the format.
    """
    return _parquet_bytes(results, columns) if suffix == ".parquet" else b"".join(map(_json_line, results))


def write_part(path, content, rows_digest, summary):
    """Writes a part and then its note.

    Args:
        path: Of `Parts.path`.
        content: Of `part_content`.
        rows_digest: SHA-256 of the rows that it was made of.
        summary: Kept in the note, as JSON takes it.
    """
    note = {"sha256": hashlib.sha256(content).hexdigest(), "rows_sha256": rows_digest, "summary": summary}
    write_file(path, content)
    write_file(path.with_suffix(".json"), json.dumps(note).encode())


def write_file(path, content):
    """Writes a file at once: it is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(f"{path.parent}: the disk is full ({error.strerror})") from error
        raise


def digest(rows):
    """SHA-256 of a part's rows, by columns, text and error."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(row, default=_plain).encode())
    return found.hexdigest()


def _json_line(row):
    try:
        text = json.dumps(row, ensure_ascii=False, default=_plain, allow_nan=False)
    except ValueError:  # JSON has no NaN and no infinity
        text = json.dumps(_finite(row), ensure_ascii=False, default=_plain)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # lone surrogates, which JSON can escape and UTF-8 cannot write
        return json.dumps(json.loads(text)).encode() + b"\n"


def _plain(value):
    """What JSON does not know, as text: bytes in base64."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first_example(path, text_column):
    """The first row with topics or entities."""
    if path.suffix != ".parquet":
        rows = (json.loads(line) for line in path.read_bytes().split(b"\n") if line)
        return next((row for row in rows if row["topics"] or row["entities"]), None)
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=list(dict.fromkeys([text_column, *NEW_COLUMNS])))
    spans = [pc.greater(pc.list_value_length(table[name]), 0) for name in ("topics", "entities")]
    rows = table.filter(pc.fill_null(pc.or_(*spans), False)).slice(0, 1).to_pylist()
    return rows[0] if rows else None


def result_types():
    """Arrow types of the columns that scoring adds."""
    import pyarrow as pa

    span = [(name, pa.type_for_alias(alias)) for name, alias in SPAN_FIELDS.items()]
    topic = pa.struct(span)
    entity = pa.struct([("entity_group", pa.string()), *span])
    lists = {"topics": pa.list_(topic), "entities": pa.list_(entity)}
    return {**lists, "sentiment": pa.string(), "error": pa.string()}


def _parquet_bytes(results, columns):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = _arrow_table(results, result_types())
    if columns is not None:
        results, table = table, pa.ipc.open_stream(columns).read_all()
        for field in results.schema:
            table = table.append_column(field, results[field.name])
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table, sink)
    except pa.ArrowException as error:
        raise ValueError(f"these rows do not fit into Parquet ({error}): write .jsonl instead") from error
    return sink.getvalue().to_pybytes()


def _arrow_table(rows, types):
    """Dicts as a table; `types` of some of their columns."""
    import pyarrow as pa

    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows], types.get(name))
        except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise ValueError(f"column {name!r} does not fit into Parquet ({error}): write .jsonl instead") from error
    return pa.table(columns)


def _concatenated(tables, schema=None):
    """Tables one after the other, in one schema."""
    import pyarrow as pa

    try:
        if schema is None:
            return pa.concat_tables(tables, promote_options="permissive")
        table = pa.concat_tables([schema.empty_table(), *tables], promote_options="permissive").select(schema.names)
        return table if table.schema == schema else table.cast(schema)
    except pa.ArrowException as error:
        raise ValueError(f"a column has several types ({error}): write .jsonl instead") from error


def _join_parquet(paths, target):
    import pyarrow as pa
    import pyarrow.parquet as pq

    empty = pa.schema(list(result_types().items()))
    try:
        schema = pa.unify_schemas([pq.read_schema(path) for path in paths] or [empty], promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"a column has several types ({error}): write .jsonl instead") from error
    with pq.ParquetWriter(target, schema) as writer:
        for start in range(0, len(paths), GROUP_PARTS):
            tables = [pq.read_table(path) for path in paths[start : start + GROUP_PARTS]]
            writer.write_table(_concatenated(tables, schema))
