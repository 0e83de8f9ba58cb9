"""`bench/topic_sentiment.py`: what it counts, and how."""

import json

import pytest

from bench import topic_sentiment
from bench.topic_sentiment import measure, sentences
from tests.conftest import example_rows


def test_sentences_of_a_review():
    text = "The soup was cold!  The staff, however, was kind... Never again"
    assert [text[a:b] for a, b in sentences(text)] == [
        "The soup was cold!", "The staff, however, was kind...", "Never again",
    ]  # fmt: skip


def test_measures_worked_out_by_hand():
    labels = ["negative", "neutral", "positive"]
    both = {"source": "a", "topics": [{"sentiment": "negative"}, {"sentiment": "positive"}, {"sentiment": None}]}
    one = {"source": "b", "topics": [{"sentiment": "positive"}]}
    found = [
        (both, both["topics"][0], {"text": 2, "sentence": 2, "topic": 0}),
        (both, both["topics"][1], {"text": 2, "sentence": 0, "topic": 2}),
        (one, one["topics"][0], {"text": 2, "sentence": 2, "topic": 2}),
    ]
    results = measure(found, labels, "positive")
    assert {name: group["topics"] for name, group in results.items()} == {"all": 3, "a": 2, "b": 1, "differing": 2}
    assert results["all"]["majority"] == results["all"]["text"]
    assert results["all"]["text"] == {"accuracy": pytest.approx(2 / 3), "macro_f1": pytest.approx(0.8 / 2)}
    assert results["all"]["sentence"] == {"accuracy": pytest.approx(1 / 3), "macro_f1": pytest.approx(0.5 / 2)}
    assert results["differing"]["topic"] == {"accuracy": 1, "macro_f1": 1}


def test_a_run_counts_every_topic_with_a_sentiment(hub_folder, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{name: row.get(name) for name in ("text", "topics", "sentiment", "source")} for row in example_rows()]
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    topic_sentiment.main([str(hub_folder), "--data", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "topic_sentiment.json").read_text("utf-8"))
    assert record["majority"] in ("positive", "negative") and record["results"]["all"]["topics"] == 2
    assert record["results"]["differing"]["topics"] == 2 and record["weights_sha256"]
    pq.write_table(pa.Table.from_pylist([{"text": "x", "topics": None}]), tmp_path / "test.parquet")
    with pytest.raises(SystemExit, match="no topics with a sentiment"):
        topic_sentiment.main([str(hub_folder), "--data", str(tmp_path), "--output_dir", str(tmp_path / "out")])
