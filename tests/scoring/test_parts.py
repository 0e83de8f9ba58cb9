"""`tsn/scoring/parts.py`: Parquet's columns come out as they went in, whatever Python makes of them."""

import decimal
import io
import json
import pickle
import struct
import sys
from argparse import Namespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsn.scoring import run as scoring
from tsn.scoring.parts import NEW_COLUMNS, output_names, split_columns
from tsn.scoring.rows import read_table

ROWS = 9
NO_THRESHOLDS = {"threshold": 0.0, "entity_threshold": 0.0}
NAN = struct.unpack("<d", (0x7FF8_0000_DEAD_BEEF).to_bytes(8, "little"))[0]
INVALID = pa.Array.from_buffers(
    pa.string(), 3, [None, pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffb")]
)


def repeated(values, dtype):
    return pa.array((values * ROWS)[:ROWS], dtype)


COLUMNS = {
    "text": repeated(["The soup was cold.", "", None, "Lima is lovely."], pa.large_string()),
    "map": repeated([[("x", 1), ("x", 2)], [], None], pa.map_(pa.string(), pa.int64())),
    "uint64": repeated([2**64 - 1, 2**63, None], pa.uint64()),
    "timestamp": repeated([1, 2**62 + 1, None], pa.timestamp("ns", "Europe/Rome")),
    "duration": repeated([1, 10**9 + 1, None], pa.duration("ns")),
    "time": repeated([1, 10**9 + 1, None], pa.time64("ns")),
    "date": repeated([2**31 - 1, 0, -(2**31)], pa.int32()).view(pa.date32()),  # out of Python's range
    "int8": repeated([1, -128, None], pa.int8()),
    "float32": repeated([0.1, None, -0.0], pa.float32()),
    "float64": repeated([NAN, 5e-324, None], pa.float64()),
    "float16": repeated([1.5, None], pa.float16()),
    "fixed_size_list": repeated([[1, 2], None, [3, None]], pa.list_(pa.int16(), 2)),
    "decimal": repeated([decimal.Decimal("1.10"), None], pa.decimal128(38, 2)),
    "dictionary": pa.DictionaryArray.from_arrays(
        repeated([0, 1, None], pa.int8()), pa.array(["x", "y"]), ordered=True
    ),
    "empty": repeated([[]], pa.list_(pa.struct([("a", pa.int8())]))),
    "struct": repeated([{"a": None}, {"a": {"b": 1}}, None], pa.struct([("a", pa.struct([("b", pa.uint8())]))])),
    "null": pa.nulls(ROWS),
    "binary": repeated([b"\xff\0", None], pa.binary(2)),
    "not UTF-8": pa.concat_arrays([INVALID] * 3),
    "topics": repeated([5, None], pa.int32()),
    "input_topics": repeated(["theirs"], pa.string_view()),
}


class Pipe:
    """Finds the first word as a topic."""

    def __call__(self, texts, batch_size=1):
        for text in texts:
            word = text.partition(" ")[0]
            topics = [{"word": word, "score": 0.5, "start": 0, "end": len(word)}] if word else []
            topics = [{**topic, "sentiment": "neutral", "sentiment_score": 1.0} for topic in topics]
            sentiment = {"label": "neutral" if word else None, "scores": {"neutral": float(bool(word))}}
            yield {"topics": topics, "entities": [], "sentiment": sentiment}


def score(tmp_path, *inputs, output, **options):
    given = {
        "model": str(tmp_path),
        "onnx": "none",
        "openvino_file": None,
        "device": "cpu",
        "batch_size": 1,
        "text_column": "text",
    }
    given |= {"split": "train", "threads": 1, "engine": "local", "report": None, **NO_THRESHOLDS, **options}
    return scoring.score(Namespace(inputs=list(map(str, inputs)), output=str(output), **given))


@pytest.fixture(autouse=True)
def parts_of_two_rows(monkeypatch):
    monkeypatch.setattr(scoring, "load", lambda *_, **__: Pipe())
    monkeypatch.setattr(scoring, "PART_ROWS", 2)


def bits(column):
    """A column as what Arrow keeps of it: type, and values that compare by their bits."""
    array = pa.chunked_array(column).combine_chunks()
    if pa.types.is_dictionary(array.type):
        return array.type, array.indices.to_pylist(), array.dictionary.to_pylist()
    if pa.types.is_floating(array.type):
        return array.type, array.view(f"int{array.type.bit_width}").to_pylist()
    if pa.types.is_string(array.type):
        return array.type, array.view(pa.binary()).to_pylist()
    return array.type, array


@pytest.mark.parametrize("group", [1, 4, 100])
def test_columns_come_out_bit_for_bit(tmp_path, group):
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table(COLUMNS), source, row_group_size=group)
    summary = score(tmp_path, source, output=output, report=str(tmp_path / "report.html"))
    before, after = pq.read_table(source), pq.read_table(output)
    names = output_names(COLUMNS)
    assert names[-2:] == ["input_topics", "input_input_topics"]
    assert after.schema.names == [*names, *NEW_COLUMNS]
    for name, kept in zip(COLUMNS, names):
        assert after.schema.field(kept).type == COLUMNS[name].type == before.schema.field(name).type
        assert bits(after[kept].chunks) == bits(before[name].chunks), name
    assert after["error"].to_pylist() == [
        "text is null" if text is None else None for text in COLUMNS["text"].to_pylist()
    ]
    assert [len(topics) for topics in after["topics"].to_pylist()] == [1, 0, 0, 1, 1, 0, 0, 1, 1]
    assert summary.rows == ROWS and "soup was cold." in (tmp_path / "report.html").read_text("utf-8")


def test_a_text_that_is_not_utf8_comes_out_as_it_went_in(tmp_path):
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"text": INVALID}), source)
    score(tmp_path, source, output=output)
    after = pq.read_table(output)
    assert bits(after["text"].chunks) == bits([INVALID])
    assert [error is None for error in after["error"].to_pylist()] == [True, False, True]


def test_parquet_and_other_files_come_together(tmp_path):
    """A part of rows of both, and of two schemas."""
    for name, columns in (
        ("a", {"n": pa.array([1], pa.int8())}),
        ("b", {"n": pa.array([2], pa.int32()), "day": ["x"]}),
    ):
        pq.write_table(pa.table({"text": [name], **columns}), tmp_path / f"{name}.parquet")
    (tmp_path / "c.jsonl").write_text('{"text": "c", "n": 3}\n{"text": 4, "n": 2.5}\n')
    output = tmp_path / "out.parquet"
    inputs = (tmp_path / "a.parquet", tmp_path / "c.jsonl", tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="'text' does not fit into Parquet|several types"):
        score(tmp_path, *inputs, output=output)
    (tmp_path / "c.jsonl").write_text('{"text": "c", "n": 3}\n{"text": null, "n": 2.5}\n')
    output = tmp_path / "both.parquet"
    score(tmp_path, *inputs, output=output)
    rows = pq.read_table(output).to_pylist()
    assert [(row["text"], row["n"], row["day"]) for row in rows] == [
        ("a", 1, None), ("c", 3, None), (None, 2.5, None), ("b", 2, "x"),
    ]  # fmt: skip


def test_json_lines_get_what_json_can_say(tmp_path):
    pq.write_table(pa.table(COLUMNS), tmp_path / "in.parquet")
    score(tmp_path, tmp_path / "in.parquet", output=tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == ROWS and [row["error"] for row in rows[:3]] == [None, None, "text is null"]
    assert (rows[0]["uint64"], rows[0]["map"], rows[0]["decimal"]) == (2**64 - 1, [["x", 1], ["x", 2]], "1.10")
    assert rows[0]["timestamp"].endswith(".000000001+01:00") and rows[1]["not UTF-8"] == "\\xff"
    assert rows[0]["float64"] is None and rows[0]["input_topics"] == 5


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_worker_gets_no_more_than_its_part(tmp_path, suffix):
    """Rows of Parquet know the batch that they come from, which is not to be sent with each part."""
    pq.write_table(pa.table({"text": ["x" * 1000] * 1000}), tmp_path / "in.parquet")
    rows = list(read_table(tmp_path / "in.parquet"))[:10]
    assert len(pickle.dumps(split_columns(rows, suffix))) < 30_000


def test_it_goes_on_from_the_parts_whatever_way_the_rows_come(tmp_path, monkeypatch):
    """A pipe cannot be read again; but what comes through it can be sent again."""
    content = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(7)).encode()
    scored, texts = scoring.score_part, []

    def score_part(pipe, rows, *others):
        if len(texts) == 4:
            raise KeyboardInterrupt
        texts.extend(row.text for row in rows)
        return scored(pipe, rows, *others)

    monkeypatch.setattr(scoring, "score_part", score_part)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path, "-", output=tmp_path / "out.jsonl")
    monkeypatch.setattr(scoring, "score_part", scored)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.replace(b"text 0", b"other"))))
    with pytest.raises(ValueError, match="the input has changed"):
        score(tmp_path, "-", output=tmp_path / "out.jsonl")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert score(tmp_path, "-", output=tmp_path / "out.jsonl").rows == 7 and texts == [f"text {i}" for i in range(4)]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == [f"text {i}" for i in range(7)]


def test_a_pipe_without_the_column_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"body": "a"}\n{"body": "b"}\n')))
    with pytest.raises(ValueError, match="-: no row has a column 'text'"):
        score(tmp_path, "-", output=tmp_path / "out.jsonl")


def test_the_output_does_not_lie_in_an_input(tmp_path):
    """Its parts would be rows of the table when the run goes on."""
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="is one of the inputs, or lies in one"):
        score(tmp_path, tmp_path, output=tmp_path / "out.parquet")
