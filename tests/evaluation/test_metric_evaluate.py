"""`TSNMetric` as `evaluate` uses it: Arrow, several ways to add rows, its cache, and no network."""

import doctest
import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given

from tests.conftest import ROOT
from tests.evaluation.metric_rows import PREDICTIONS, REFERENCES, quick, reference, rows
from tsn.evaluation import metric
from tsn.evaluation.metric import TSNMetric, compute_metrics_from_rows


@given(rows=rows)
@quick
def test_arrow_changes_nothing(tmp_path_factory, rows):
    predictions, references = [p for p, _ in rows], [r for _, r in rows]
    metric = TSNMetric(keep_in_memory=True, cache_dir=str(tmp_path_factory.getbasetemp()))
    expected = compute_metrics_from_rows(predictions, references)
    assert metric.compute(predictions=predictions, references=references) == expected


@pytest.mark.parametrize("keep_in_memory", [False, True])
def test_ways_to_add_rows(keep_in_memory, tmp_path):
    metric = TSNMetric(keep_in_memory=keep_in_memory, cache_dir=str(tmp_path))
    expected = compute_metrics_from_rows(PREDICTIONS, REFERENCES)
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == expected
    for cut in (1, 2):
        metric.add_batch(predictions=PREDICTIONS[:cut], references=REFERENCES[:cut])
        metric.add_batch(predictions=PREDICTIONS[cut:], references=REFERENCES[cut:])
        assert metric.compute() == expected
    for row in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction=row[0], reference=row[1])
    assert metric.compute() == expected


def test_further_keys_are_ignored(tmp_path):
    def extend(row):
        topics = row["topics"] and [topic | {"count": 2} for topic in row["topics"]]
        return row | {"topics": topics, "id": "a text"}

    metric = TSNMetric(cache_dir=str(tmp_path))
    predictions, references = [extend(row) for row in PREDICTIONS], [extend(row) for row in REFERENCES]
    expected = compute_metrics_from_rows(PREDICTIONS, REFERENCES)
    assert compute_metrics_from_rows(predictions, references) == expected
    assert metric.compute(predictions=predictions, references=references) == expected


def test_two_metrics_at_once_do_not_collide(tmp_path):
    first, second = TSNMetric(cache_dir=str(tmp_path)), TSNMetric(cache_dir=str(tmp_path))
    assert first.experiment_id != second.experiment_id
    order = list(zip(PREDICTIONS, REFERENCES, strict=True))
    random.Random(0).shuffle(order)
    for row in order:
        first.add(prediction=row[0], reference=row[1])
        second.add(prediction=row[0], reference=reference(sentiment="neutral"))
    assert first.cache_file_name != second.cache_file_name
    assert second.compute()["sentiment_rows"] == len(order)
    assert first.compute() == compute_metrics_from_rows(PREDICTIONS, REFERENCES)


def test_a_shared_experiment_keeps_its_id(tmp_path):
    names = [TSNMetric(num_process=2, process_id=i, cache_dir=str(tmp_path)).experiment_id for i in range(2)]
    assert names[0] == names[1]
    assert TSNMetric(experiment_id="mine", cache_dir=str(tmp_path)).experiment_id == "mine"


LOAD = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the metric used the network")

socket.socket.connect = socket.getaddrinfo = refuse

from tsn.evaluation.metric import TSNMetric

metric = TSNMetric(cache_dir=sys.argv[1])
print(json.dumps(metric.compute(**json.load(sys.stdin))))
"""


def test_needs_no_network(tmp_path):
    # Another process, because evaluate reads its environment on import. It shares the cache with a metric in use.
    metric = TSNMetric(cache_dir=str(tmp_path / "cache"))
    metric.add_batch(predictions=PREDICTIONS[:1], references=REFERENCES[:1])
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "cache")],
        input=json.dumps({"predictions": PREDICTIONS, "references": REFERENCES}),
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    metric.add_batch(predictions=PREDICTIONS[1:], references=REFERENCES[1:])
    assert json.loads(run.stdout) == metric.compute() == compute_metrics_from_rows(PREDICTIONS, REFERENCES)


def test_examples_in_docstrings():
    results = doctest.testmod(metric)
    assert results.attempted > 0
    assert results.failed == 0
