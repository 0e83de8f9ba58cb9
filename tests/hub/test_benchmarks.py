"""`tsn/hub/benchmarks.py`: results go to `.eval_results/` if their data set is a benchmark, and only then."""

import json
import subprocess
import sys

import huggingface_hub
import pytest
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.utils import http_backoff

from tests.hub.hub_server import Fault, Hub
from tests.hub.release_workshop import commit_all, release, tags
from tsn.hub.benchmarks import benchmark_files
from tsn.hub.client import HubError

BENCHMARK = """
name: CoNLL-2003
description: News with names.
evaluation_framework: seqeval
metrics:
- id: f1
tasks:
- id: ner
  config: default
  split: test
- id: ner_german
  config: de
- id: ner_dev
  split: validation
"""


def register(hub, data_set, content):
    hub.store.create(f"datasets--{data_set}", private=False)
    files = {"eval.yaml": hub.store.entry(content.encode())} if content else {}
    hub.store.commit(f"datasets--{data_set}", "main", "files", files, [], None)


def card(*results):
    common = {"task_type": "token-classification", "dataset_name": "x", "dataset_split": "test", "metric_type": "f1"}
    results = [EvalResult(**{**common, **result}) for result in results]
    return str(ModelCard(f"---\n{ModelCardData(model_name='tsn', eval_results=results)}\n---\n"))


@pytest.fixture
def api(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("tsn.hub.client.RETRIES", 0)
    monkeypatch.setitem(http_backoff.__kwdefaults__, "max_retries", 0)  # what huggingface_hub tries again on its own
    with Hub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token="writer-token")
        api.hub = hub
        yield api


def test_a_task_gets_the_figure_of_its_configuration_split_and_metric(api):
    register(api.hub, "eriktks/conll2003", BENCHMARK)
    register(api.hub, "midas/inspec", None)
    conll = {"dataset_type": "eriktks/conll2003"}
    text = card(
        {**conll, "metric_type": "recall", "metric_value": 0.1, "metric_name": "NER recall"},
        {**conll, "metric_value": 0.8981, "metric_name": "NER f1"},
        {**conll, "metric_value": 0.7, "metric_name": "NER f1", "dataset_config": "de"},
        {**conll, "metric_value": 0.6, "metric_name": "NER f1", "dataset_config": "nl"},
        {"dataset_type": "midas/inspec", "metric_value": 0.5, "metric_name": "Topics f1"},
        {"dataset_type": "nobody/nothing", "metric_value": 0.5, "metric_name": "Topics f1"},
        {"dataset_type": "tsn-test", "metric_value": 0.5, "metric_name": "Topics f1"},
        {"dataset_type": "../x", "metric_value": 0.5, "metric_name": "Topics f1"},
    )
    files = benchmark_files(text, api, "https://hub.example/a")
    assert list(files) == [".eval_results/eriktks--conll2003.yaml"]
    entries = yaml.safe_load(files[".eval_results/eriktks--conll2003.yaml"])
    assert [(e["dataset"]["task_id"], e["value"]) for e in entries] == [("ner", 0.8981), ("ner_german", 0.7)]
    if hasattr(huggingface_hub, "parse_eval_result_entries"):
        parsed = huggingface_hub.parse_eval_result_entries(entries)[0]
        assert (parsed.dataset_id, parsed.task_id, parsed.value) == ("eriktks/conll2003", "ner", 0.8981)
        assert (parsed.notes, parsed.source_url) == ("NER f1", "https://hub.example/a")
        assert huggingface_hub.eval_result_entries_to_yaml([parsed]) == entries[:1]


@pytest.mark.parametrize(
    "content",
    [
        "tasks: [{id: x, config: other}]",
        "metrics: [{id: accuracy}]\ntasks: [{id: x}]",
        "metrics: [{id: f1}, {id: accuracy, primary: true}]\ntasks: [{id: x}]",
        *("tasks: [{id: 3}]", "tasks: [x]", "tasks: {}", "- 1", "tasks: [", "{}", "!!python/object:os.system {}"),
    ],
)
def test_what_is_another_task_or_no_task_gets_none(api, content):
    register(api.hub, "a/b", content)
    text = card({"dataset_type": "a/b", "metric_value": 0.5, "metric_name": "NER f1"})
    assert benchmark_files(text, api, "https://hub.example") == {}


def test_a_hub_that_fails_is_not_taken_for_a_no(api):
    register(api.hub, "a/b", "tasks: [{id: x}]")
    text = card({"dataset_type": "a/b", "metric_value": 0.5, "metric_name": "NER f1"})
    for fault in (Fault("HEAD", "eval.yaml", status=503), Fault("GET", "eval.yaml", status=500, times=9)):
        api.hub.faults = [fault]
        with pytest.raises(HubError, match=str(fault.status)):
            benchmark_files(text, api, "https://hub.example")
    api.hub.faults = []
    assert list(benchmark_files(text, api, "https://hub.example")) == [".eval_results/a--b.yaml"]


@pytest.mark.slow
def test_a_release_asks_the_hub(clone, hub):
    path = clone / "results" / "eval_results.json"
    record = json.loads(path.read_text("utf-8"))
    record["results"] |= {"conll2003": {"rows": 9, "ner_f1": 0.5}, "inspec": {"rows": 9, "topic_f1": 0.25}}
    path.write_text(json.dumps(record), "utf-8")
    subprocess.run([sys.executable, "-m", "tsn.hub.card"], cwd=clone, check=True)
    commit_all(clone)
    register(hub, "midas/inspec", None)
    for version, registered in (("1.0.0", False), ("1.0.1", True)):
        if registered:
            register(hub, "eriktks/conll2003", BENCHMARK)
        done = release(clone, hub, version=version, stub="answers")
        assert done.returncode == 0, done.stderr
        files = hub.store.load("org/tsn")["commits"][tags(hub)[f"v{version}"]]["files"]
        written = [name for name in files if name.startswith(".eval_results/")]
        assert written == [".eval_results/eriktks--conll2003.yaml"] * registered
    [entry] = yaml.safe_load(hub.store.get(files[written[0]]["sha256"]))
    assert entry["value"] == 0.5 and entry["source"]["url"] == f"{hub.url}/org/tsn/blob/v1.0.1/eval_results.json"
