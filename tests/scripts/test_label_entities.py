"""`label_entities.py`: which reviews are looked at, and which answers are kept as labels."""

import json

import pyarrow.parquet as pq
import pytest

from configuration_tsn import TSNConfig
from scripts import label_entities
from scripts.label_entities import SURE, candidates, is_accounted_for
from tests.conftest import backbone_config
from tsn.data.annotated import read_rows


def entity(text, word, score=0.9):
    return {"start": text.index(word), "end": text.index(word) + len(word), "entity_group": "LOC", "score": score}


@pytest.mark.parametrize(
    "language, found, kept",
    [
        ("en", [("Porto", 0.9), ("Ana", SURE)], True),
        ("en", [("Porto", 0.9), ("Ana", SURE - 0.01)], False),  # not sure of one
        ("en", [("Porto", 0.9)], False),  # Ana is left over
        ("de", [("Porto", 0.9)], True),  # nouns have capitals in German
        ("en", [("Porto", 0.9), ("Ana", 0.9), ("soup", 0.9)], False),  # a common noun
        ("en", [], False),
    ],
)
def test_what_is_accounted_for(language, found, kept):
    row = {"text": "The soup in Porto was made by Ana.", "language": language}
    assert is_accounted_for(row, [entity(row["text"], word, score) for word, score in found]) is kept


def review(text, **values):
    topic = {"start": 4, "end": 8, "sentiment": "negative"}
    return {"text": text, "topics": [topic], "source": "reviews", "language": "en", **values}


@pytest.fixture
def data_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        review("The soup in Porto was cold."),
        review("The soup was cold."),
        review("THE SOUP IN PORTO WAS COLD."),
        review("The soup in Braga was cold.", entities=[]),
        {"text": "The mayor of Porto spoke.", "entities": None, "sentiment": "neutral", "source": "news"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_candidates_are_reviews_with_names_that_nobody_annotated(data_file):
    config = TSNConfig(backbone_config=backbone_config("bert", 50))
    assert [row["text"] for row in candidates([str(data_file)], config)] == ["The soup in Porto was cold."]


def test_command_writes_rows_that_training_reads(hub_folder, data_file, tmp_path, capsys, monkeypatch):
    """A tiny model with random weights is sure of nothing, so that its answers are all taken as they are."""
    monkeypatch.setattr(label_entities, "is_accounted_for", lambda row, entities: True)
    out = tmp_path / "labelled.parquet"
    label_entities.main([str(hub_folder), str(data_file), "--output", str(out)])
    assert "1 of 1 reviews" in capsys.readouterr().out
    (row,) = read_rows(str(out), TSNConfig(backbone_config=backbone_config("bert", 50)))
    assert (row["text"], row["source"], row["topics"]) == ("The soup in Porto was cold.", label_entities.SOURCE, None)
    assert row["entities"] is not None
    assert pq.read_schema(out).names == ["source", "language", "text", "entities"]


def test_without_anything_sure_no_row_is_kept(hub_folder, data_file, tmp_path):
    out = tmp_path / "labelled.parquet"
    label_entities.main([str(hub_folder), str(data_file), "--output", str(out)])
    assert pq.read_table(out).num_rows == 0


def test_missing_file_is_an_error(hub_folder, tmp_path):
    with pytest.raises(SystemExit, match="label_entities: .*missing.jsonl"):
        label_entities.main(
            [str(hub_folder), str(tmp_path / "missing.jsonl"), "--output", str(tmp_path / "o.parquet")]
        )
