"""`tsn/data/annotated.py`: targets, annotated types, and columns that are not read."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_annotated import CONFIG, TEXT, entity, labels_of, write_csv, write_jsonl
from tsn.data import annotated
from tsn.data.annotated import InvalidRow, read_rows

# Targets and the types that are annotated


def spans(name, *given):
    return {"text": TEXT, name: [dict(zip(("start", "end", "sentiment"), span)) for span in given]}


def read_as(kind, folder, rows, **options):
    """The rows of a file of this format; nulls of Parquet are nulls of JSON."""
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=2), "utf-8")
    else:
        write_jsonl(path, rows)
    return list(read_rows(path, CONFIG, **options))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
def test_targets_and_entity_types(tmp_path, kind):
    rows = [
        {**spans("targets", (31, 35, "positive"), (0, 10, "negative")), "entity_types": ["LOC", "PER"]},
        {**spans("targets"), "entity_types": []},
        {"text": TEXT, "targets": None, "entity_types": None},
        {**spans("targets", (0, 10, "neutral")), "entity_types": ["MISC", "ORG", "LOC", "PER"]},
    ]
    rows[0]["entities"] = [{"start": 31, "end": 35, "label": "LOC"}]
    read = read_as(kind, tmp_path, rows)
    places = [[(span["start"], span["end"], span["sentiment"]) for span in row["targets"] or []] for row in read]
    assert places == [[(0, 10, "negative"), (31, 35, "positive")], [], [], [(0, 10, "neutral")]]
    assert [row["targets"] is None for row in read] == [False, False, True, False]
    # In the model's order; None, which is all of them, also where all are named.
    assert [row["entity_types"] for row in read] == [["PER", "LOC"], [], None, None]
    assert all(row["topics"] is None for row in read), "targets say nothing about topics"


BAD_TARGETS = [
    (spans("targets", (0, 10, None)), "targets: the span 0:10 has no sentiment"),
    ({"text": TEXT, "targets": [{"start": 0, "end": 10}]}, "targets: the span 0:10 has no sentiment"),
    (spans("targets", (0, 10, "great")), "targets: sentiment 'great' is not one of negative, neutral, positive"),
    (spans("targets", (0, 10, 7)), "targets: sentiment 7 is not one of"),
    (spans("targets", (0, 10, "neutral"), (4, 12, "neutral")), "targets: the spans 0:10 and 4:12 overlap"),
    (spans("targets", (0, 10, "neutral"), (0, 10, "neutral")), "targets: the spans 0:10 and 0:10 overlap"),
    (spans("targets", (0, 37, "neutral")), "targets: the span 0:37 is empty or outside the text of 36 characters"),
    (spans("targets", (10, 11, "neutral")), "targets: the span 10:11 is empty"),
    (spans("targets", (0, None, "neutral")), "targets: a span needs a whole-numbered start and end"),
    ({"text": TEXT, "targets": "screen"}, "targets must be a list of spans, not str"),
    ({"text": TEXT, "entity_types": ["PER", "CITY"]}, "entity_types: 'CITY' is not one of PER, LOC, ORG, MISC"),
    ({"text": TEXT, "entity_types": [["PER"]]}, r"entity_types: \['PER'\] is not one of"),
    ({"text": TEXT, "entity_types": "PER"}, "entity_types must be a list of entity types, not 'PER'"),
    ({"text": TEXT, "entity_types": {"PER": 1}}, "entity_types must be a list"),
    ({**entity(31, 35), "entity_types": ["PER"]}, "entities: 'LOC' is not one of PER$"),
    ({**entity(31, 35), "entity_types": []}, "entities: 'LOC' is not an annotated type"),
]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("bad, reason", BAD_TARGETS, ids=range(len(BAD_TARGETS)))
def test_bad_targets_and_entity_types(tmp_path, bad, reason, kind):
    good, found = {"text": TEXT}, []
    read = read_as(kind, tmp_path, [good, bad, good], on_invalid=lambda error, raw: found.append((str(error), raw)))
    ((error, raw),) = found
    assert len(read) == 2 and error.startswith(f"{tmp_path / f'rows.{kind}'}, row 2: ") and re.search(reason, error)
    assert {name: raw[name] for name in bad} == bad or kind == "parquet"  # which adds the fields that others have
    with pytest.raises(InvalidRow, match=reason):
        read_as(kind, tmp_path, [good, bad, good])


# Columns that are not read


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "tsn.data"]


@pytest.mark.parametrize(
    "row, words",
    [
        ({"label": 1}, "column not read: 'label' (did you mean 'sentiment'?)"),
        ({"ner": [], "label": 1},
         "columns not read: 'ner' (did you mean 'entities'?), 'label' (did you mean 'sentiment'?)"),
        ({"Topics": []}, "column not read: 'Topics' (did you mean 'topics'?)"),
        ({"entitys": []}, "column not read: 'entitys' (did you mean 'entities'?)"),
        ({"keywords": []}, "column not read: 'keywords' (did you mean 'topics'?)"),
        ({"label": 1, "sentiment": 1}, "column not read: 'label'"),
        ({"stars": 5}, "column not read: 'stars'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_columns_that_are_not_read_are_named_once(tmp_path, caplog, kind, row, words):
    read = read_as(kind, tmp_path, [{"text": TEXT, **row}] * 3)
    assert len(read) == 3 and all(row["entities"] is row["topics"] is None for row in read)
    assert warnings_of(caplog) == [f"{tmp_path / f'rows.{kind}'}: {words}"]


def test_columns_of_csv_that_are_not_read_are_named_once(tmp_path, caplog):
    path = write_csv(tmp_path / "rows.csv", "a,[],1", "b,[],1", header="text,entities,label")
    assert [row["entities"] for row in read_rows(path, CONFIG)] == [None, None]
    assert warnings_of(caplog) == [
        f"{path}: columns not read: 'entities' (did you mean 'ner'?), 'label' (did you mean 'sentiment'?)"
    ]
    caplog.clear()
    path = write_csv(tmp_path / "rows.csv", "a,,,,,,", header="text,id,source,language,topics,ner,sentiment")
    assert len(list(read_rows(path, CONFIG))) == 1 and not warnings_of(caplog)
    rows = [{"text": "a", **dict.fromkeys(annotated.COLUMNS[4:])}, {"text": "b"}]
    assert len(list(read_rows(write_jsonl(tmp_path / "a.jsonl", rows), CONFIG))) == 2 and not warnings_of(caplog)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_simple_csv_with_other_delimiters(tmp_path, delimiter):
    cells = [["text", "topics", "ner"], [TEXT, "['screen', 'Lima']", "[('Ana Torres', 'PER')]"]]
    path = tmp_path / "rows.csv"
    path.write_text("".join(delimiter.join(row) + "\r\n" for row in cells), "utf-16", newline="")
    (row,) = read_rows(path, CONFIG)
    assert labels_of(row)["topics"] == [(21, 27), (31, 35)] and labels_of(row)["entities"] == [(0, 10, "PER")]


@pytest.mark.parametrize("name", ["my.file.jsonl", "my.file.json.gz", "my.file.JSONL"])
def test_a_source_is_the_name_without_the_suffixes(tmp_path, name):
    (tmp_path / name).write_text('{"text": "a"}\n')
    assert next(read_rows(tmp_path / name, CONFIG))["source"] == "my.file"
