"""`tsn/scoring/rows.py`: every row comes out, in order, whatever is in the file."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tsn.data.files import _REFUSED, is_hub_id
from tsn.scoring.rows import Row, read_table

# Of UTF-16, packed files and what is refused: `tests/data/test_readers.py` has these.
OTHER_BEGINNINGS = (
    b"\xff\xfe",
    b"\xfe\xff",
    b"\0\0\xfe\xff",
    b"\x1f\x8b\x08",
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
)
OTHER_BEGINNINGS += (b"PAR1\x15", *_REFUSED)
cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@given(st.lists(st.tuples(cells, cells), max_size=8))
def test_a_csv_comes_back_as_it_was_written(folder, rows):
    path = folder / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *rows])
    assert list(read_table(path)) == [Row({"id": a, "text": b}, b, None) for a, b in rows]


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | cells
values |= st.lists(values, max_size=3)


@given(st.lists(st.dictionaries(st.sampled_from(["text", "id", "x"]), values), max_size=8))
def test_json_lines_come_back_as_they_were_written(folder, rows):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = list(read_table(path))
    assert [row.columns for row in found] == rows
    for row in found:
        text = row.columns.get("text")
        assert (row.text, row.error is None) == ((text, True) if isinstance(text, str) else (None, False))


@given(st.binary(max_size=60))
def test_bytes_of_a_text_file_make_a_row_a_line(folder, content):
    assume(not content.startswith(OTHER_BEGINNINGS))
    path = folder / "a.txt"
    path.write_bytes(content)
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = list(read_table(path))
    assert len(found) == len(lines) - (not lines[-1])
    for line, row in zip(lines, found):
        line = line.removesuffix(b"\r")
        try:
            assert row.text == line.decode() and row.error is None
        except UnicodeDecodeError:
            assert row.text is None and "not UTF-8" in row.error


def test_parquet(tmp_path):
    rows = [{"n": i, "text": None if i % 7 == 0 else f"text {i}"} for i in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=700)
    found = list(read_table(tmp_path / "a.parquet"))
    assert [row.columns for row in found] == rows
    assert found[0].error == "text is null" and found[1] == Row(rows[1], "text 1", None)


@pytest.mark.parametrize(
    "name, content, errors",
    [
        ("a.csv", b"id,text\n1,fine\n2\n3,a,b\n4,fine\n", [None, "1 cell under a header of 2", "3 cells", None]),
        ("a.csv", b"text,id\ncaf\xe9,1\nfine,2\n", ["bytes that are not UTF-8", None]),
        ("a.csv", b'text,id\n"a"b,1\nfine,2\n', ["line 2 is not CSV", None]),
        ("a.csv", b"text\nfine\n\nfine\n", [None, None, None]),
        ("a.csv", b"\xef\xbb\xbftext,id\nnul\0 byte,1\n", [None]),
        ("a.jsonl", b'{"text": "fine"}\n{"text": \nnull\n[1]\n\n{"text": 3}\n{}\n',
         [None, "not a line of JSON", "NoneType", "list", "text is int", "no column 'text'"]),
        ("a.jsonl", b'{"text": "caf\xe9"}\n' + b"[" * 10**5 + b"\n", ["not a line of JSON", "not a line of JSON"]),
        ("a.jsonl", b'{"text": "x", "a": ' + b"[" * 300 + b"]" * 300 + b"}", ["nested more than 100 deep"]),
        ("a.jsonl", b'{"text": "\\ud800"}\n{"text": "x", "n": NaN}', [None, None]),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_scored_says_why(tmp_path, name, content, errors):
    (tmp_path / name).write_bytes(content)
    found = list(read_table(tmp_path / name))
    assert len(found) == len(errors)
    for row, error in zip(found, errors):
        assert (row.error is None) == (error is None) == (row.text is not None), row
        assert error is None or error in row.error, row


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", b"", "no columns"),
        ("a.csv", b"id,body\n", "no column 'text' among 'id', 'body'"),
        ("a.csv", b"text,text\n", "the same name"),
        ("a.csv", b'text,id\n"open,1\nfine,2\n', "opens in the row of line 2 is never closed"),
        ("a.csv", b'id,text\n1,"open\n2,fine\n3,"quoted"\n4,fine\n', "opens in the row of line 2 is never closed"),
        ("a.parquet", b"PAR1 but no more", "not a readable Parquet file"),
        ("a.xlsx", b"x", "the format is not known"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        list(read_table(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)


def test_cells_of_parquet_that_cannot_be_read(tmp_path):
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffb")]
    )
    days = pa.array([1, 2**31 - 1, 3], pa.int32()).view(pa.date32())
    pq.write_table(pa.table({"text": texts, "day": days}), tmp_path / "a.parquet")
    found = list(read_table(tmp_path / "a.parquet"))
    assert [row.text for row in found] == ["a", None, "b"]
    assert "text cannot be read" in found[1].error and "day cannot be read" in found[1].error


def test_ids_of_data_sets_are_told_from_files(tmp_path):
    assert all(map(is_hub_id, ("imdb", "stanfordnlp/sst2", "teknium/OpenHermes-2.5")))
    assert not any(map(is_hub_id, ("a.csv", "a.xlsx", "../a", "/a/b", str(tmp_path), "a/b/c")))


def test_a_parquet_file_cut_short_is_named(tmp_path):
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["x"] * 5000}), sink)
    for length in (10, len(sink.getvalue()) // 2, len(sink.getvalue()) - 3):
        (tmp_path / "a.parquet").write_bytes(sink.getvalue()[:length])
        with pytest.raises(ValueError, match="a.parquet: not a readable Parquet file"):
            list(read_table(tmp_path / "a.parquet"))


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(read_table(tmp_path / "none.csv"))
