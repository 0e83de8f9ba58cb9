"""`tsn/scoring/rows.py`: every row comes out, with its text or the reason why not, of any bytes."""

import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given

from tests.fuzz.files import files
from tsn.scoring.rows import read_table

FOLDER = tempfile.TemporaryDirectory()


def number_of_rows(suffix, content):
    """Counted another way; None where only the reader itself can tell (quotes over lines)."""
    if suffix == ".parquet":
        try:
            return pq.ParquetFile(io.BytesIO(content)).metadata.num_rows
        except (pa.ArrowException, OSError):
            return None
    if suffix == ".csv":
        return None
    lines = content.split(b"\n")
    if suffix == ".jsonl":
        return sum(bool(line.strip()) for line in lines)
    return len(lines) - (not lines[-1])


@given(files())
def holds(file):
    suffix, content = file
    path = Path(FOLDER.name) / f"rows{suffix}"
    path.write_bytes(content)
    rows = []
    try:
        for row in read_table(path):
            assert isinstance(row.columns, dict)
            assert isinstance(row.text, str) if row.error is None else row.text is None and isinstance(row.error, str)
            rows.append(row)
    except ValueError as error:  # the file as a whole
        assert str(path) in str(error) and suffix in (".csv", ".parquet")
        return
    expected = number_of_rows(suffix, content)
    assert expected is None or len(rows) == expected
