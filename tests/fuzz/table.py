"""`tsn/scoring/rows.py`: every row comes out, with its text or the reason why not, of any bytes."""

import gzip
import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

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
    lines = content.split(b"\n")
    first = next((line.strip() for line in lines if line.strip()), b"")
    if suffix in (".csv", ".json") or suffix == ".jsonl" and (first[:1] == b"[" or first == b"{"):
        return None
    if suffix == ".jsonl":
        return sum(bool(line.strip()) for line in lines)
    return len(lines) - (not lines[-1])


@given(files(), st.sampled_from(["", ".gz"]))
def holds(file, packing):
    suffix, content = file
    path = Path(FOLDER.name) / f"rows{suffix}{packing}"
    path.write_bytes(gzip.compress(content) if packing else content)
    rows = []
    try:
        for row in read_table(path):
            assert isinstance(row.columns, dict)
            assert isinstance(row.text, str) if row.error is None else row.text is None and isinstance(row.error, str)
            rows.append(row)
    except ValueError as error:  # the file as a whole
        assert str(path) in str(error)
        if suffix == ".txt":
            assert "cannot be read" in str(error) or "damaged or incomplete" in str(error)
        return
    if not content.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) and b"\0" not in content:  # UTF-16, 32
        content = content.removeprefix(b"\xef\xbb\xbf")
        expected = number_of_rows(suffix, content)
        assert expected is None or len(rows) == expected
