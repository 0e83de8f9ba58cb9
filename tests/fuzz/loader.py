"""`tsn/data/annotated.py`: rows that fit the labels, or an error that names the file, of any bytes."""

import tempfile
from pathlib import Path

from hypothesis import given

from configuration_tsn import TSNConfig
from tests.fuzz.files import files
from tsn.data.annotated import InvalidRow, read_rows

CONFIG = TSNConfig()
FOLDER = tempfile.TemporaryDirectory()


def check(row):
    text = row["text"]
    assert isinstance(text, str) and isinstance(row["row"], str)
    for name in ("topics", "entities", "targets"):
        end = 0
        for span in row[name] or []:
            assert end <= span["start"] < span["end"] <= len(text) and text[span["start"] : span["end"]].strip()
            assert name != "entities" or span["label"] in (row["entity_types"] or ("PER", "LOC", "ORG", "MISC"))
            assert name != "targets" or span["sentiment"] in CONFIG.sentiment_labels
            end = span["end"]
    assert row["sentiment"] is None or row["sentiment"] in CONFIG.sentiment_labels


@given(files((".csv", ".jsonl", ".json", ".parquet")))
def holds(file):
    path = Path(FOLDER.name) / f"rows{file[0]}"
    path.write_bytes(file[1])
    bad = []
    try:
        for row in read_rows(path, CONFIG, on_invalid=lambda error, raw: bad.append(error)):
            check(row)
    except ValueError as error:  # the file as a whole
        assert str(path) in str(error)
    assert all(isinstance(error, InvalidRow) and f"{path}, row " in str(error) for error in bad)
