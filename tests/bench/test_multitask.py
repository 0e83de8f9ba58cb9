"""`bench/multitask.py`: what each model sees, and the table; what it trains is not tested here."""

import pyarrow.parquet as pq
import pytest

from bench.multitask import sampling_weights, task_rows, words_seen
from tests.conftest import example_rows
from tsn.hub.figures import multitask_table


@pytest.fixture
def data(tmp_path):
    import pyarrow as pa

    blank = dict.fromkeys(("topics", "entities", "sentiment"))
    rows = [{**blank, "source": f"s{i % 2}", "language": "en", **row} for i, row in enumerate(example_rows())]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    return tmp_path / "data.parquet", rows


@pytest.mark.parametrize("task, column", [("topic", "topics"), ("ner", "entities"), ("sentiment", "sentiment")])
def test_a_task_has_its_rows_and_no_others_labels(tmp_path, data, task, column):
    path, rows = data
    found = pq.read_table(task_rows(path, task, tmp_path / "own.parquet")).to_pylist()
    expected = [row for row in rows if row[column] is not None]
    assert [row["text"] for row in found] == [row["text"] for row in expected]
    assert [row["sentiment"] for row in found] == [
        row["sentiment"] if task == "sentiment" else None for row in expected
    ]
    assert sum(row[column] is not None for row in found) == len(found) > 0
    assert all(row[other] is None for row in found for other in {"topics", "entities", "sentiment"} - {column})


def test_words_are_counted_as_often_as_they_are_seen(data):
    path, rows = data
    words = [len(row["text"].split()) for row in rows]
    sources = [row["source"] for row in rows]
    expected = sum(w * {"news": 2, "s0": 0.5}.get(s, 1) for w, s in zip(words, sources))
    assert words_seen(path, {"news": 2, "s0": 0.5}) == pytest.approx(expected)
    pairs = ["news=2", "news/en=3", "nowhere=4", "s0/en=0.5"]
    assert sampling_weights({"sampling_weights": pairs}, path) == {"news": 2, "news/en": 3, "s0/en": 0.5}


def test_table():
    def run(name, steps, **metrics):
        return {"name": name, "steps": steps, "seconds": 60.0 * steps, "metrics": metrics}

    best = {"topic_f1": 0.5, "ner_f1": 0.8, "sentiment_macro_f1": 0.61234}
    runs = [run("joint", 6, **best), run("topic", 1, topic_f1=0.4), run("ner", 2, ner_f1=0.81)]
    lines = multitask_table({"runs": [*runs, run("sentiment", 3, sentiment_macro_f1=0.6)]}).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[2:-1]] == ["40.0", "81.0", "60.0", "6", "6"]
    assert [cell.strip() for cell in lines[3].split("|")[2:-1]] == ["50.0", "80.0", "61.2", "6", "6"]
    assert len(lines) == 4
