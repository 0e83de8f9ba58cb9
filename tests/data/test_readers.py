"""`tsn/data/readers.py` and `files.py`: the rows that were written come back, whatever program wrote them and how."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configuration_tsn import TSNConfig
from tsn.data import readers
from tsn.data.annotated import read_rows
from tsn.data.files import reads_once
from tsn.data.readers import BadRow, open_rows
from tsn.scoring.rows import read_table

CONFIG = TSNConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def rows_of(path, **options):
    return list(open_rows(path, **options)[1])


# What is written comes back


def as_csv(rows, delimiter=","):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows([("id", "text"), *((row["id"], row["text"]) for row in rows)])
    return out.getvalue()


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_rows_of_an_array(rows):
    """As many programs write it: an array with an object a line."""
    return "[" + ",\n ".join(json.dumps(row) for row in rows) + "]"


WRITERS = {
    ".csv": [as_csv, lambda rows: as_csv(rows, ";"), lambda rows: as_csv(rows, "\t"), lambda rows: as_csv(rows, "|")],
    ".tsv": [lambda rows: as_csv(rows, "\t")],
    ".jsonl": [as_lines],
    ".ndjson": [as_lines, as_rows_of_an_array],
    ".json": [
        as_lines,
        as_rows_of_an_array,
        json.dumps,
        lambda rows: json.dumps(rows, indent=2, ensure_ascii=False),
        lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows),  # as `jq .` writes it
        lambda rows: "".join(json.dumps([row]) for row in rows),  # `cat *.json`
    ],
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
PACKERS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}
cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
tables = st.lists(st.fixed_dictionaries({"id": cells, "text": cells}), max_size=6)


@st.composite
def written(draw, tables=tables):
    """`(name, bytes, rows)` of a table in one of the formats, encodings and packings."""
    rows, suffix = draw(tables), draw(st.sampled_from(list(WRITERS)))
    content = draw(st.sampled_from(WRITERS[suffix]))(rows).encode(draw(st.sampled_from(ENCODINGS)))
    packing = draw(st.sampled_from(list(PACKERS)))
    return f"a{suffix}{packing}", PACKERS[packing](content), rows


@given(written())
def test_a_table_comes_back_as_it_was_written(folder, file):
    name, content, rows = file
    (folder / name).write_bytes(content)
    assert rows_of(folder / name) == rows
    assert [row.columns for row in read_table(folder / name)] == rows
    assert [row["text"] for row in read_rows(folder / name, CONFIG)] == [row["text"] for row in rows]


@given(tables, st.sampled_from(list(PACKERS)), st.integers(1, 3))
def test_parquet_comes_back_as_it_was_written(folder, rows, packing, group):
    out = io.BytesIO()
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in ("id", "text")}), out, row_group_size=group)
    path = folder / f"a.parquet{packing}"
    path.write_bytes(PACKERS[packing](out.getvalue()))
    assert rows_of(path) == rows and [row["text"] for row in read_rows(path, CONFIG)] == [row["text"] for row in rows]


lines = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=12), max_size=6)


@given(
    lines, st.sampled_from(ENCODINGS), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from(list(PACKERS))
)
@example(["Müller sagt: ja", "東京"], "utf-16", "\r\n", True, "")  # what `>` writes in PowerShell
def test_the_lines_of_a_text_come_back(folder, texts, encoding, end, ended, packing):
    content = end.join(texts) + (end if ended or texts and not texts[-1] else "")
    path = folder / f"a.txt{packing}"
    path.write_bytes(PACKERS[packing](content.encode(encoding)))
    expected = content.split(end)
    assert rows_of(path) == [{"text": text} for text in (expected if expected[-1] else expected[:-1])]


def test_utf_16_without_a_byte_order_mark(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.txt").write_bytes("The soup was cold.\r\nNaïve.\r\n".encode(encoding))
        assert rows_of(tmp_path / "a.txt") == [{"text": "The soup was cold."}, {"text": "Naïve."}]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | cells,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(cells, inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(cells, values, max_size=3), max_size=5), st.sampled_from(WRITERS[".json"][1:]))
def test_json_in_pieces_of_any_size(folder, rows, write):
    """Wherever the buffer ends: in a word, a number, an escape."""
    (folder / "a.json").write_text(write(rows), "utf-8")
    with mock.patch.object(readers, "HEAD", 1):
        assert rows_of(folder / "a.json") == rows


def test_elements_that_are_no_rows_do_not_take_others_with_them(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"text": "a"}, 5, null, {"text": "caf\xe9"}, {"text": "\\udce9"}, {"text": NaN}, ["x"]]')
    errors = ["a JSON object is needed, not int", "a JSON object is needed, not NoneType", "bytes that are not UTF-8"]
    bad = [BadRow(error, {}) for error in [*errors, "a JSON object is needed, not list"]]
    assert rows_of(path) == [{"text": "a"}, *bad[:3], {"text": "\udce9"}, {"text": None}, bad[3]]


def test_half_a_pair_of_utf_16_is_a_fault_of_its_row(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff\xfe" + "a\n".encode("utf-16-le") + b"\x00\xd8" + "b\nc\n".encode("utf-16-le"))
    assert [row.error is None for row in read_table(path)] == [True, False, True]


@pytest.mark.parametrize(
    "name, header, delimiter",
    [
        ("a.csv", "id,text;x", ","),  # no delimiter names the column: the one with most columns
        ("a.csv", "text", ","),
        ("a.tsv", "text", "\t"),
        ("a.csv", '"text","a;b;c"', ","),
        ("a.csv", "a,b,c;text", ";"),
        ("a.tsv", "id,text", ","),
    ],
)
def test_the_header_decides_on_the_delimiter(tmp_path, name, header, delimiter):
    path = tmp_path / name
    columns = next(csv.reader([header], delimiter=delimiter))
    path.write_text(f"{header}\n" + delimiter.join(f'"{c}, {c}; {c}"' for c in columns) + "\n", "utf-8")
    if "text" in columns:
        assert rows_of(path) == [{c: f"{c}, {c}; {c}" for c in columns}]
    else:
        with pytest.raises(ValueError, match="no column 'text' among 'id', 'text;x'"):
            rows_of(path)


# Pipes and files without a name


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("suffix", [*WRITERS, ".parquet"])
def test_what_comes_through_a_pipe_is_told_by_its_content(tmp_path, suffix, packing, monkeypatch):
    rows = [{"id": "1", "text": "a, b"}, {"id": "2", "text": "Müller"}]
    contents = [write(rows).encode("utf-16") for write in WRITERS.get(suffix, [])]
    if suffix == ".parquet":
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), out)
        contents = [out.getvalue()]
    for content in map(PACKERS[packing], contents):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True).start()
        assert reads_once(pipe) and rows_of(pipe) == rows
        pipe.unlink()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert rows_of("-") == rows
        (tmp_path / "file").write_bytes(content)
        assert rows_of(tmp_path / "file") == rows and not reads_once(tmp_path / "file")


def test_text_through_a_pipe(tmp_path):
    for content in ("Good phone, bad battery\nGood sound, bad screen\n", "a\n", "[Chorus]\nla\n", "{sic}, he said\n"):
        (tmp_path / "file").write_text(content)
        assert rows_of(tmp_path / "file") == [{"text": line} for line in content.splitlines()]
    assert rows_of(tmp_path / "file", column="body") == [{"body": "{sic}, he said"}]


def test_csv_without_the_column_does_not_pass_for_text(tmp_path):
    (tmp_path / "file").write_text("id;customer review\n1;a\n2;b\n")
    with pytest.raises(ValueError, match="looks like CSV whose columns are 'id', 'customer review', without 'text'"):
        rows_of(tmp_path / "file")
    assert len(rows_of(tmp_path / "file", column="customer review")) == 2


def test_a_pipe_cannot_be_streamed_for_training(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("-", tmp_path / "pipe"):
        with pytest.raises(ValueError, match="can be read only once"):
            next(read_rows(path, CONFIG, streaming=True))


# Folders


def test_a_folder_is_a_table_of_its_parquet_files(tmp_path):
    table = pa.table(
        {"text": ["a", "b", "c", "d"], "year": [2024, 2023, 2024, None], "lang": ["é", "x y", "x y", None]}
    )
    pq.write_to_dataset(table, tmp_path / "table", partition_cols=["lang", "year"])
    (tmp_path / "table" / "_SUCCESS").write_bytes(b"")
    for hidden in ("_temporary", ".staging"):
        (tmp_path / "table" / hidden).mkdir()
        pq.write_table(pa.table({"text": ["unfinished"]}), tmp_path / "table" / hidden / "part.parquet")
    rows = rows_of(tmp_path / "table")
    assert sorted(rows, key=lambda row: row["text"]) == table.to_pylist()
    assert rows == rows_of(tmp_path / "table")
    assert [row.columns for row in read_table(tmp_path / "table")] == rows


def test_files_of_a_folder_come_by_name_each_with_its_columns(tmp_path):
    for name, columns in (
        ("b", {"text": ["b"], "n": [1]}),
        ("a", {"text": ["a"]}),
        ("c", {"n": [0.5], "text": ["c"]}),
    ):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    assert rows_of(tmp_path) == [{"text": "a"}, {"text": "b", "n": 1}, {"text": "c", "n": 0.5}]
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="d.parquet: not a readable Parquet file"):
        rows_of(tmp_path)


@pytest.mark.parametrize("log", ["_delta_log", ".hoodie", "metadata/v1.metadata.json"])
def test_a_table_with_a_log_may_have_files_that_do_not_count(tmp_path, log):
    pq.write_table(pa.table({"text": ["deleted"]}), tmp_path / "a.parquet")
    (tmp_path / log).mkdir(parents=True)
    with pytest.raises(ValueError, match="a Delta, Hudi or Iceberg table"):
        rows_of(tmp_path)


# What is something else


def zipped(name):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(name, "text\na\n")
    return out.getvalue()


def tarred():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.csv"))
    return gzip.compress(out.getvalue(), mtime=0)  # a time would give the test another name in each process


def arrow(new):
    out = io.BytesIO()
    table = pa.table({"text": ["a"]})
    with new(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.xlsx", zipped("[Content_Types].xml"), "is a zip archive or an Office file"),
        ("a.csv", zipped("a.csv"), "is a zip archive"),
        ("a", zipped("a.csv"), "is a zip archive"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Office file such as .xls"),
        ("a.tgz", tarred(), "is a tar archive"),
        ("a.csv.gz", tarred(), "is a tar archive"),
        ("a.pkl", pickle.dumps(["a"]), "is a pickle"),
        ("a.jsonl", pickle.dumps(["a"], 2), "is a pickle"),
        ("a.arrow", arrow(pa.ipc.new_file), "is an Arrow"),
        ("a.arrow", arrow(pa.ipc.new_stream), "is an Arrow stream"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        ("a.html", b"<html>", "the format is not known"),
        ("a.parquet", b"text\na\n", "not a readable Parquet file"),
        ("a.json", b'[{"text": "a"},\n{"text": "b"', "line 2: not JSON"),
        ("a.json", b'[{"text": "a"}\n{"text": "b"}]', "line 2: not JSON \\(',' is missing before '{'\\)"),
        ("a.json", b'[{"text": "a"},\n', "line 2: not JSON"),
        ("a.json", b'[{"text": "a"}', "the array is never closed"),
        ("a.json", b'{\n"text": "a",\n}', "line [23]: not JSON"),
        ("a.json", b"[" + b"[" * 100_000, "not JSON"),
        ("a.json", b'[{"n": ' + b"9" * 5000 + b"}]", "not JSON"),
        ("a.csv.gz", gzip.compress(b"text\n" + b"a\n" * 99, mtime=0)[:-9], "is damaged or incomplete"),
        ("a.jsonl.gz", gzip.compress(b"{}\n", mtime=0) + b"rest", "is damaged or incomplete"),
        ("a.csv.bz2", bz2.compress(b"text\n" + b"a\n" * 99)[:-9], "is damaged or incomplete"),
        ("a.csv.xz", lzma.compress(b"text\n" + b"a\n" * 99)[:-9], "is damaged or incomplete"),
        ("a.csv.zst", pa.Codec("zstd").compress(os.urandom(3000), asbytes=True)[:-9], "is damaged or incomplete"),
        ("a.txt", "abc".encode("utf-16")[:-1], "is damaged or incomplete"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    for read in (lambda path: read_rows(path, CONFIG, on_invalid=lambda *_: None), read_table):
        if name.endswith(".txt") and read is not read_table:
            continue
        with pytest.raises(ValueError, match=words) as error:
            list(read(tmp_path / name))
        assert str(tmp_path / name) in str(error.value)


def test_no_more_than_some_rows_are_in_memory(tmp_path):
    row = {"id": "1", "text": "The soup was cold. " * 20}
    for name, write in (("a.csv", as_csv), ("a.jsonl", as_lines), ("a.json", json.dumps)):
        content = write([row] * 8_000).encode()
        (tmp_path / name).write_bytes(content)
        tracemalloc.start()
        count = sum(1 for _ in open_rows(tmp_path / name)[1])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 8_000 and peak < len(content) / 3, (name, peak)
