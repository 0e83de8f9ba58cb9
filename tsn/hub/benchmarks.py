"""`.eval_results/`: what the Hub shows on the leaderboards of data sets that are registered as benchmarks.

Such a data set has an `eval.yaml` (https://huggingface.co/docs/hub/eval-results), which names its tasks and may name
its metrics. Results on other data sets stand in the card's `model-index` alone.
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import cast

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import GatedRepoError

from tsn.hub.client import HubError, ask


def benchmark_files(card, api, source):
    """The files of `.eval_results/`, for the results of a card on data sets that are benchmarks.

    Args:
        card: Text of README.md.
        api: An `HfApi`.
        source: URL of the recorded results.

    Returns:
        dict: names on the Hub to texts; empty if none of the data sets is a benchmark.

    Raises:
        HubError: the Hub could not be asked.
    """
    results = cast(ModelCardData, ModelCard(card).data).eval_results or []
    files = {}
    for data_set in dict.fromkeys(result.dataset_type for result in results):
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", data_set):
            continue  # not a data set of the Hub
        benchmark = _read_benchmark(data_set, api)
        if benchmark is None:
            continue
        entries = _entries(benchmark, [result for result in results if result.dataset_type == data_set], source)
        if entries:
            files[f".eval_results/{data_set.replace('/', '--')}.yaml"] = yaml.safe_dump(entries, sort_keys=False)
        else:
            print(f"{data_set} is a benchmark, but of other tasks or metrics than the card's.", file=sys.stderr)
    return files


def _read_benchmark(data_set, api):
    """Its `eval.yaml`, or None if it has none or none that may be read."""
    place = {"repo_id": data_set, "filename": "eval.yaml", "repo_type": "dataset"}
    try:
        if not ask(api.file_exists, **place):
            return None
        with tempfile.TemporaryDirectory() as cache:
            path = Path(ask(api.hf_hub_download, cache_dir=cache, **place))
            return yaml.safe_load(path.read_text(encoding="utf-8"))
    except HubError as error:
        if isinstance(error.__cause__, GatedRepoError):
            return None
        raise
    except (UnicodeDecodeError, yaml.YAMLError):  # someone else's file does not hold up a release
        return None


def _entries(benchmark, results, source):
    """As huggingface_hub's `EvalResultEntry` has them; written here because 0.36 has no such class.

    A task is answered by the first result on its configuration and the test split, in its primary metric.
    """
    tasks, metrics = (_dicts(benchmark, name) for name in ("tasks", "metrics"))
    primary = [metric.get("id") for metric in metrics if metric.get("primary") or len(metrics) == 1]
    entries = []
    for task in tasks:
        config = None if task.get("config") == "default" else task.get("config")
        fitting = [
            result
            for result in results
            if result.dataset_config == config
            and task.get("split") in (None, result.dataset_split)
            and (not metrics or result.metric_type in primary)
        ]
        if fitting and isinstance(task.get("id"), str):
            entries.append(
                {
                    "dataset": {"id": results[0].dataset_type, "task_id": task["id"]},
                    "value": fitting[0].metric_value,
                    "source": {"url": source, "name": "Recorded results"},
                    "notes": fitting[0].metric_name,
                }
            )
    return entries


def _dicts(value, name):
    items = value.get(name) if isinstance(value, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
