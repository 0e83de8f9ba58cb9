"""`tsn/data/annotated.py`: files and data sets to checked rows."""

import json
import re
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configuration_tsn import TSNConfig
from tests.conftest import TEXTS, example_rows
from tsn.data import annotated
from tsn.data.annotated import InvalidRow, read_rows

CONFIG = TSNConfig()
TEXT = "Ana Torres likes the screen in Lima."  # Ana Torres 0:10, screen 21:27, Lima 31:35


def write_jsonl(path, rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return path


def write_csv(path, *lines, header="text,topics,sentiment,ner"):
    path.write_text("\n".join([header, *lines]) + "\n", "utf-8")
    return path


def labels_of(row):
    """A row as what matters of it, columns that are not there being None."""
    entities = row.get("entities")
    return {
        "text": row["text"],
        "topics": None if row.get("topics") is None else [(s["start"], s["end"]) for s in row["topics"]],
        "entities": None if entities is None else [(s["start"], s["end"], s["label"]) for s in entities],
        "sentiment": row.get("sentiment"),
    }


# Reading


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
def test_files_give_their_rows(tmp_path, kind):
    rows = example_rows()
    path = tmp_path / f"my.file.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows, schema=None), path)
    else:
        write_jsonl(path, [*rows[:2], "", "  ", *rows[2:]])  # blank lines are no rows
    for name in (path, str(path)):
        read = list(read_rows(name, CONFIG))
        assert [labels_of(row) for row in read] == [labels_of(row) for row in rows]
        assert [row["source"] for row in read] == ["news", "reviews"] + ["my.file"] * 4
        assert all(set(row) == {*annotated.COLUMNS, "row"} for row in read)
        assert [row["row"] for row in read] == [f"{path}, row {i}" for i in range(1, len(rows) + 1)]


def test_parquet_in_many_groups_keeps_order_and_numbers(tmp_path):
    path = tmp_path / "many.parquet"
    texts = [f"Text {i}." for i in range(3000)]
    sentiments = ["neutral"] * 3000
    sentiments[2500] = "mixed"
    pq.write_table(pa.table({"text": texts, "sentiment": sentiments}), path, row_group_size=700)
    bad = []
    read = list(read_rows(path, CONFIG, on_invalid=lambda error, raw: bad.append((str(error), raw))))
    assert [row["text"] for row in read] == texts[:2500] + texts[2501:]
    assert len(bad) == 1 and "row 2501" in bad[0][0] and bad[0][1]["text"] == "Text 2500."


def test_several_files(tmp_path):
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name}]) for name in ("one", "two")]
    rows = list(chain.from_iterable(read_rows(path, CONFIG) for path in paths))
    assert [(row["text"], row["source"]) for row in rows] == [("one", "one"), ("two", "two")]


def test_hub_data_set(monkeypatch):
    asked = []

    def load_dataset(path, split, streaming):
        asked.append((path, split, streaming))
        return [{"text": TEXT, "sentiment": 2, "other": 1, "id": "7"}, {"text": "b", "topics": None}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    first, second = read_rows("org/reviews", CONFIG, split="test")
    assert asked == [("org/reviews", "test", False)]
    assert (first["row"], second["row"]) == ("org/reviews, row 1 (id 7)", "org/reviews, row 2")
    assert first["sentiment"] == "positive" and first["source"] == second["source"] == "reviews"
    assert second["topics"] is None and second["sentiment"] is None


def test_nothing_annotated_and_nothing_found_differ(tmp_path):
    rows = [{"text": TEXT}, {"text": TEXT, "topics": [], "entities": []}, {"text": "", "topics": []}]
    read = list(read_rows(write_jsonl(tmp_path / "a.jsonl", rows), CONFIG))
    assert [row["topics"] for row in read] == [None, [], []] and [row["entities"] for row in read] == [None, [], None]


def test_spans_come_in_order_and_offsets_count_characters(tmp_path):
    text = "🙂🙂 İzmir und Łódź"
    places = [{"start": 13, "end": 17, "label": "LOC"}, {"start": 3, "end": 8, "label": "LOC"}]
    (row,) = read_rows(write_jsonl(tmp_path / "a.jsonl", [{"text": text, "entities": places}]), CONFIG)
    assert [text[span["start"] : span["end"]] for span in row["entities"]] == ["İzmir", "Łódź"]


def test_topics_may_have_a_sentiment(tmp_path):
    spans = [(0, 3, {"sentiment": "negative"}), (4, 10, {"sentiment": 2}), (21, 27, {}), (28, 30, {"sentiment": None})]
    row = {"text": TEXT, "topics": [{"start": a, "end": b, **more} for a, b, more in spans]}
    (read,) = read_rows(write_jsonl(tmp_path / "a.jsonl", [row]), CONFIG)
    assert [topic["sentiment"] for topic in read["topics"]] == ["negative", "positive", None, None]


def test_a_blank_line_before_a_malformed_row_does_not_hide_the_rest(tmp_path):
    path, bad = tmp_path / "a.csv", []
    path.write_text('text,topics\nok,[]\n\na,"b"c\n\nok2,[]\n', "utf-8")
    rows = list(read_rows(path, CONFIG, on_invalid=lambda error, _: bad.append(str(error))))
    assert [row["text"] for row in rows] == ["ok", "ok2"] and len(bad) == 1 and "row 2: line 4 is not CSV" in bad[0]


# Bad rows


def entity(start, end, label="LOC"):
    return {"text": TEXT, "entities": [{"start": start, "end": end, "label": label}]}


def topics(*spans):
    return {"text": TEXT, "topics": [{"start": start, "end": end} for start, end in spans]}


BAD_ROWS = [
    (entity(31, 35, "CITY"), "'CITY' is not one of PER, LOC, ORG, MISC"),
    (entity(31, 35, "S-LOC"), "'S-LOC'"),
    (entity(31, 35, None), "None"),
    (entity(31, 35, ["LOC"]), "LOC"),
    (entity(31, 37), "31:37"),
    (entity(-5, 35), "-5:35"),
    (entity(35, 31), "35:31"),
    (topics((21, 21)), "21:21"),
    (topics((20, 21)), "20:21"),  # a space
    (topics((21, 27), (17, 23)), "overlap"),
    (topics((21, 27), (21, 27)), "overlap"),
    (topics((0, 36), (21, 27)), "overlap"),
    (topics((21.0, 27)), "topics"),
    (topics(("21", 27)), "topics"),
    (topics((True, 27)), "topics"),
    (topics((None, 27)), "topics"),
    ({"text": TEXT, "topics": [[21, 27]]}, "topics"),
    ({"text": TEXT, "topics": ["screen"]}, "topics"),
    ({"text": TEXT, "topics": [{"start": 21, "end": 27, "sentiment": "great"}]}, "topics: sentiment 'great' is not"),
    ({"text": TEXT, "topics": [{"start": 21, "end": 27, "sentiment": 3}]}, "topics: sentiment 3 is not one"),
    ({"text": TEXT, "topics": [{"start": 21, "end": 27, "sentiment": ["negative"]}]}, "topics: sentiment"),
    ({"text": TEXT, "topics": "screen"}, "topics"),
    ({"text": TEXT, "entities": {"start": 31, "end": 35, "label": "LOC"}}, "entities"),
    ({"text": TEXT, "sentiment": "mixed"}, "'mixed'"),
    ({"text": TEXT, "sentiment": 3}, "sentiment 3"),
    ({"text": TEXT, "sentiment": -1}, "sentiment -1"),
    ({"text": TEXT, "sentiment": True}, "sentiment True"),
    ({"text": TEXT, "sentiment": ["positive"]}, "sentiment"),
    ({"text": None}, "text must be a string"),
    ({"text": 5}, "text must be a string"),
    ({"title": TEXT}, "text must be a string"),
    ('{"text": "cut o', "JSON"),
    ("not json", "JSON"),
    ('["a list"]', "object"),
    ("5", "object"),
    ("[" * 100_000, "JSON"),
    ('{"text": ' + "1" * 5000 + "}", "JSON|digits"),
]


@pytest.mark.parametrize("bad, reason", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_bad_rows(tmp_path, bad, reason):
    good = {"text": "Good.", "sentiment": "positive"}
    path = write_jsonl(tmp_path / "rows.jsonl", [good, bad, good])
    rows = read_rows(path, CONFIG)
    assert next(rows)["text"] == "Good."
    with pytest.raises(InvalidRow) as error:
        next(rows)
    assert str(path) in str(error.value) and "row 2" in str(error.value)
    assert re.search(reason, str(error.value)), error.value
    found = []
    read = list(read_rows(path, CONFIG, on_invalid=lambda error, raw: found.append((error, raw))))
    assert [row["text"] for row in read] == ["Good."] * 2
    ((invalid, raw),) = found
    assert isinstance(invalid, InvalidRow) and str(invalid) == str(error.value)
    assert raw == bad or isinstance(bad, str) and raw is None


def test_a_line_that_is_not_utf8_is_a_bad_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "caf\xe9"}\n{"text": "b"}\n')
    found = []
    read = list(read_rows(path, CONFIG, on_invalid=lambda error, raw: found.append(str(error))))
    assert [row["text"] for row in read] == ["a", "b"]
    assert len(found) == 1 and "row 2" in found[0] and str(path) in found[0]


BAD_CSV = [
    ('"The screen","[\'screen\'",,', "topics"),  # literal cut off
    ('"The screen","__import__(\'os\')",,', "topics"),
    ('"The screen","{[]: 1}",,', "topics"),
    ('"The screen","screen",,', "topics"),
    ('"The screen","[1]",,', "topics"),
    ('"The screen","{\'screen\': 1}",,', "topics"),
    ('"The screen","[\'battery\']",,', "'battery' does not stand in the text"),
    ('"The screen","[\'scree\']",,', "'scree' does not stand in the text"),  # not a whole word
    ('"The screen","[\'\']",,', "empty phrase"),
    ('"The screen",,5,', "sentiment 5"),
    ('"The screen",,great,', "'great'"),
    ('"The screen",,,"[\'screen\']"', "ner"),
    ("\"The screen\",,,\"[('screen', 'PER', 1)]\"", "ner"),
    ("\"The screen\",,,\"[('screen', 'THING')]\"", "THING"),
    ('"The screen",,,"[(1, \'PER\')]"', "ner"),
    ("The screen, the battery,[],0,[]", "columns"),
    ("The screen,[]", "columns"),
    ('"The "screen",,,', "CSV"),
]


@pytest.mark.parametrize("bad, reason", BAD_CSV, ids=range(len(BAD_CSV)))
def test_bad_csv_rows(tmp_path, bad, reason):
    path = write_csv(tmp_path / "rows.csv", '"Good, good.",[],2,[]', bad, '"Fine.",,1,')
    with pytest.raises(InvalidRow, match="row 2") as error:
        list(read_rows(path, CONFIG))
    assert str(path) in str(error.value) and re.search(reason, str(error.value)), error.value
    found = []
    read = list(read_rows(path, CONFIG, on_invalid=lambda error, raw: found.append(str(error))))
    assert [(row["text"], row["sentiment"]) for row in read] == [("Good, good.", "positive"), ("Fine.", "neutral")]
    assert found == [str(error.value)]


def test_files_that_cannot_be_read(tmp_path):
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"text": TEXTS * 100}), whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-40])
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "body.parquet")
    (tmp_path / "rows.txt").write_text("a")
    (tmp_path / "empty.csv").write_text("")
    write_csv(tmp_path / "body.csv", "a,b", header="body,topics")
    for name, kind, reason in (
        ("missing.jsonl", FileNotFoundError, "no such file"),
        ("missing.parquet", FileNotFoundError, "no such file"),
        ("missing.txt", FileNotFoundError, "no such file"),
        ("rows.txt", ValueError, "format"),
        ("cut.parquet", ValueError, "Parquet"),
        ("body.parquet", ValueError, "'text'.*'body'"),
        ("body.csv", ValueError, "'text'.*'body'"),
        ("empty.csv", ValueError, "'text'"),
    ):
        with pytest.raises(kind, match=reason) as error:
            list(read_rows(tmp_path / name, CONFIG, on_invalid=lambda *_: None))
        assert name in str(error.value)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"\x80text,topics\na,\n", "not UTF-8 near line 1"),
        (b'text,"topics" \na,\n', "the header is not CSV"),
        (b'text,"topics\na,\n', "the header is not CSV"),
        (b"text,text\na,b\n", "two columns have the same name"),
        (b'text,topics\na,"[]\nb,\nc,\n', "row of line 2 is never closed"),  # and would swallow b and c
        (b'text,topics\na,"[]\nb,\nc,"[]"\nd,\n', "row of line 2 is never closed, or not before a delimiter"),
    ],
)
def test_csv_that_cannot_be_told_apart_into_rows(tmp_path, content, reason):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        list(read_rows(path, CONFIG, on_invalid=lambda *_: None))
    assert not isinstance(error.value, InvalidRow) and str(path) in str(error.value)


def test_parquet_that_is_damaged_within(tmp_path):
    """Its index is whole, so that it opens; a page is not."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": TEXTS * 100}), path, compression="gzip", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[60:200] = bytes(140)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable Parquet file") as error:
        list(read_rows(path, CONFIG, on_invalid=lambda *_: None))
    assert str(path) in str(error.value)


def test_a_text_of_parquet_that_python_has_no_value_for_is_a_bad_row(tmp_path):
    """And nothing else is: the day in row 3 is out of Python's range, and nobody asks for it."""
    path = tmp_path / "rows.parquet"
    text = pa.StringArray.from_buffers(3, *pa.array([b"a", b"\xff", b"b"], pa.binary()).buffers()[1:])
    day = pa.array([0, 0, 10**8], pa.date32())
    pq.write_table(pa.table({"text": text, "day": day}), path)
    found = []
    read = list(read_rows(path, CONFIG, on_invalid=lambda error, raw: found.append(str(error))))
    assert [row["text"] for row in read] == ["a", "b"]
    assert len(found) == 1 and f"{path}, row 2: text cannot be read" in found[0]


# The simple CSV


def test_csv_phrases_are_labelled_wherever_they_stand(tmp_path):
    path = write_csv(
        tmp_path / "rows.csv",
        "\"The battery life, the battery and batteryless. Battery: (battery)\",\"['battery', 'battery life']\",0,",
        '"Ana of Ana Torres.\nC++ in São Paulo","[\'C++\']",1,'
        "\"[('Ana', 'PER'), ('Ana Torres', 'PER'), ('of', 'O'), ('São Paulo', 'LOC')]\"",
        "\"x\",\"('x',)\",positive,\"[('x', 'O')]\"",
        "plain,,,",
    )
    first, second, third, fourth = read_rows(path, CONFIG)
    assert labels_of(first)["topics"] == [(4, 16), (22, 29), (57, 64)]
    assert (first["sentiment"], first["entities"]) == ("negative", None)
    words = [(second["text"][span["start"] : span["end"]], span["label"]) for span in second["entities"]]
    assert words == [("Ana", "PER"), ("Ana Torres", "PER"), ("São Paulo", "LOC")]
    assert labels_of(second)["topics"] == [(19, 22)] and second["sentiment"] == "neutral"
    assert labels_of(third) == {"text": "x", "topics": [(0, 1)], "entities": [], "sentiment": "positive"}
    assert labels_of(fourth) == {"text": "plain", "topics": None, "entities": None, "sentiment": None}


def test_csv_of_a_spreadsheet(tmp_path):
    """A byte order mark, other columns and another order."""
    path = tmp_path / "rows.csv"
    path.write_text('sentiment,id,source,text\r\n2,7,shop,"Wi-Fi, good"\r\n', "utf-8-sig", newline="")
    (row,) = read_rows(path, CONFIG)
    assert (row["text"], row["sentiment"], row["id"], row["source"]) == ("Wi-Fi, good", "positive", "7", "shop")
