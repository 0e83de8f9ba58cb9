"""The texts of the curve: of every English test set the same number of rows for each head that it is annotated for."""

import random
from pathlib import Path

from tsn.data.annotated import read_rows
from tsn.hub.curve import METRICS

FILES = ("test.parquet", "test_wild.parquet")
LABELS = {"topic_f1": "topics", "ner_f1": "entities", "sentiment_macro_f1": "sentiment"}


def read_english(folder, config):
    """All English rows of the test files in a folder, checked.

    Raises:
        OSError: a file is missing.
        ValueError: a row is not valid, or none is English.
    """
    for name in FILES:
        if not (Path(folder) / name).exists():
            raise OSError(f"{folder} has no {name}: the curve is measured on it")
    rows = [row for name in FILES for row in read_rows(Path(folder) / name, config, "test")]
    rows = [row for row in rows if row["language"] == "en"]
    if not rows:
        raise ValueError(f"{' and '.join(FILES)} in {folder} have no English rows")
    return rows


def sample_sets(rows, number, seed=0):
    """Draws the rows.

    Args:
        rows: Of `read_english`.
        number: Rows of each set and head, or all where a set has fewer.
        seed: Of the order in which a set's rows are drawn, the same one for all heads.

    Returns:
        `(rows, sets)`: the rows that were drawn, each once, the sets taking turns; and of each metric the sets that it
        is measured on, names to the indices of their rows. The end-to-end figure is that of the topics' rows in the
        sets whose topics have a sentiment.
    """
    sources = {}
    for row in rows:
        sources.setdefault(row["source"], []).append(row)
    queues, drawn = [], {}
    for source in sorted(sources):
        order = sources[source].copy()
        random.Random(f"{seed} {source}").shuffle(order)
        picked = {metric: [row for row in order if row[key] is not None][:number] for metric, key in LABELS.items()}
        drawn[source] = picked
        members = {id(row) for some in picked.values() for row in some}
        queues.append([row for row in order if id(row) in members])
    dealt = [queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)]
    index = {id(row): i for i, row in enumerate(dealt)}
    sets = {metric: {} for metric in METRICS}
    for source, picked in drawn.items():
        for metric, some in picked.items():
            if some:
                sets[metric][source] = [index[id(row)] for row in some]
        topics = picked["topic_f1"]
        if any(topic["sentiment"] is not None for row in topics for topic in row["topics"]):
            sets["topic_end_to_end_f1"][source] = sets["topic_f1"][source]
    return dealt, sets
