"""The model card: fills README.md's front matter and tables from recorded results, so that no figure is typed by hand.

    python -m tsn.hub.card            # this folder's
    python -m tsn.hub.card out/new    # of a checkpoint with its results/; the card is begun if it is not there

A table stands between `<!-- name -->` and `<!-- /name -->`; in the front matter, `model-index` and `metrics` are made
here. Everything else is left as its author wrote it.
"""

import argparse
import json
import math
import re
import struct
import sys
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from tsn.heads import MAIN_METRICS
from tsn.hub.figures import multitask_table, plot_quality, ratio, summary
from tsn.hub.files import TASK, read_record
from tsn.paths import EVAL_RESULTS, INT8_RESULTS, RESULTS, ROOT
from tsn.tables import markdown_table, results_table

INT8_MARKER = "<!-- int8 -->"
PUBLISHED = RESULTS / "published.json"
TITLES = {  # of each head: its name in the metadata and its task on the Hub
    "topic": ("Topics", "token-classification"),
    "ner": ("NER", "token-classification"),
    "sentiment": ("Sentiment", "text-classification"),
}
DATASETS = {  # source: (id on the Hub, name)
    "all": ("tsn-test", "all test rows"),
    "conll2003": ("eriktks/conll2003", "CoNLL-2003"),
    "inspec": ("midas/inspec", "Inspec"),
    "laptop14": ("semeval-2014-task-4-laptops", "SemEval-2014 task 4, laptops"),
    "restaurant14": ("semeval-2014-task-4-restaurants", "SemEval-2014 task 4, restaurants"),
    "semeval2017": ("midas/semeval2017", "SemEval-2017 task 10"),
    "tweeteval": ("cardiffnlp/tweet_eval", "TweetEval sentiment"),
    "umsab": ("cardiffnlp/tweet_sentiment_multilingual", "UMSAB"),
    "wikineural": ("Babelscape/wikineural", "WikiNEuRal"),
}
NEW_CARD = """---
library_name: transformers
pipeline_tag: token-classification
---

# {name}

Topics (key phrases), sentiment and named entities of a text in one read.

```python
from transformers import pipeline

tsn = pipeline("{task}", model="ORG/{name}", trust_remote_code=True)
```

## Results

<!-- results -->
<!-- /results -->
"""


def read(folder, path):
    """A recorded result of a checkpoint's folder."""
    return read_record(folder / path)


def results_section(folder):
    """What `eval.py` measured."""
    return results_table(read(folder, EVAL_RESULTS)["results"])


def model_section(folder):
    """What the files themselves say: parameters, bytes, layers, vocabulary."""
    weights, config = folder / "model.safetensors", read(folder, "config.json")["backbone_config"]
    with weights.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    parameters = sum(math.prod(tensor["shape"]) for tensor in tensors)
    types = " and ".join(sorted({tensor["dtype"] for tensor in tensors}))
    return (
        f"{parameters / 1e6:.1f} million parameters, {weights.stat().st_size / 1e6:.0f} MB in {types}; "
        f"{config['num_hidden_layers']} layers of width {config['hidden_size']}, {config['vocab_size']:,} vocabulary "
        "pieces.\n"
    )


def topics_section(folder):
    """How well the sentiment of a topic is read, at its words and otherwise."""
    record = read(folder, RESULTS / "topic_sentiment.json")
    if record["weights_sha256"] != read(folder, EVAL_RESULTS)["weights_sha256"]:
        raise ValueError(f"{RESULTS}/topic_sentiment.json was measured on other weights than {EVAL_RESULTS}")
    readings = {"majority": record["majority"], "text": "its text", "sentence": "its sentence", "topic": "its words"}
    lines = [["Macro F1 (accuracy)", "Topics", *readings.values()]]
    for name, group in record["results"].items():
        cells = (f"{group[r]['macro_f1']:.3f} ({group[r]['accuracy']:.3f})" for r in readings)
        lines.append([name, f"{group['topics']:,}", *cells])
    return markdown_table(lines)


def published_section(folder):
    """The results beside those that others have published on the same test sets."""
    results = read(folder, EVAL_RESULTS)["results"]
    lines = [["Test set", "Metric", "Published by", "published", "TSN"]]
    for entry in read(folder, PUBLISHED):
        if entry["metric"] not in results.get(entry["source"], {}):
            continue
        found = results[entry["source"]][entry["metric"]]
        by = f"[{entry['system']}]({entry['url']}), {entry['citation']}"
        lines.append([entry["source"], entry["metric"], by, f"{entry['value']:.3f}", f"{found:.3f}"])
    return markdown_table(lines, left=3)


def multitask_section(folder):
    """One model beside three and beside an adapter, and how fast `train.py` trains."""
    runs, speed = read(folder, RESULTS / "multitask.json"), read(folder, RESULTS / "training.json")
    return (
        f"{multitask_table(runs)}\n"
        f"{runs['machine']['cores']} cores of an {runs['machine']['cpu']}; one run each. `train.py` has "
        f"{ratio(speed['throughput_ratio'])} of the throughput of a bare loop over the same batches.\n"
    )


def int8_section(folder):
    """Accuracy on the test split and bytes, fp32 beside int8."""
    fp32, int8 = read(folder, EVAL_RESULTS), read(folder, INT8_RESULTS)
    report = read(folder, RESULTS / "int8" / "quantization_report.json")
    if int8["weights_sha256"] != report["files"]["model_quantized.onnx"]["sha256"]:
        raise ValueError("results/int8: eval_results.json was measured on another file than the report's")
    if fp32["weights_sha256"] != report["weights_sha256"]:
        raise ValueError(f"{EVAL_RESULTS} was measured on other weights than results/int8's")
    lines = [["Test split", "ONNX MB", *MAIN_METRICS.values()]]
    for name, file, results in (("fp32", "model.onnx", fp32), ("int8", "model_quantized.onnx", int8)):
        metrics = [f"{results['results']['all'][metric]:.4f}" for metric in MAIN_METRICS.values()]
        lines.append([name, f"{report['files'][file]['bytes'] / 1e6:.1f}", *metrics])
    kept = ", ".join(f"`{layer.strip('/')}`" for layer in report["trials"][-1]["fp32_layers"]) or "none"
    machine = report["processor"]
    files = ", ".join(report["eval_files"])
    gate = f"--max_drop {report['max_drop']} on {files}" if files else "without a gate"
    return (
        f"{markdown_table(lines)}\n"
        f"Quantized on {machine['name']} ({', '.join(machine['features'])}) with the preset `{report['preset']}`, "
        f"{gate}. Layers left in fp32: {kept}.\n"
    )


def scoring_section(folder):
    """How `score.py` stands beside the pipeline, scales, and what memory it takes."""
    record = read(folder, RESULTS / "scoring.json")
    one, two = record["scaling"]
    ratios = sorted(turn["pipeline"] / turn["score"] for turn in record["turns"])
    lines = [["rows", "threads", "texts/s", "peak MB, all processes"]]
    for run in [*record["scaling"], *record["runs"]]:
        lines.append(
            [f"{run['rows']:,}", str(run["threads"]), f"{run['rows'] / run['seconds']:.0f}", str(run["peak_mb"])]
        )
    machine = record["machine"]
    rate = max(run["rows"] / run["seconds"] / run["threads"] for run in record["runs"])
    return (
        f"{markdown_table(lines, left=0)}\n"
        f"The reviews of `examples/`, on {machine['cores']} cores of an {machine['cpu']}, loading included. Beside "
        f"the pipeline on a list of the same texts, one thread each, without loading: {ratios[len(ratios) // 2]:.2f} "
        f"({ratios[0]:.2f}-{ratios[-1]:.2f}) of its throughput. Two processes: {one['seconds'] / two['seconds']:.2f} "
        f"times as fast as one. At {rate:.0f} texts a second and core, a billion such texts would take "
        f"{1e9 / rate / 3600:,.0f} core hours; longer texts cost as much more as they have more words.\n"
    )


SECTIONS = {
    "model": model_section,
    "results": results_section,
    "topics": topics_section,
    "published": published_section,
    "int8": int8_section,
    "bench": lambda folder: summary(read(folder, RESULTS / "bench.json")),
    "multitask": multitask_section,
    "scoring": scoring_section,
}


def evaluation_results(record):
    """The `EvalResult`s of what `eval.py` recorded: every metric of every source and language, to four decimals.

    Left out are counts (`rows`, `support`) and `score`, a mean that chooses between checkpoints.

    Raises:
        ValueError: it was measured on training or validation data.
    """
    for name in record["data"]:
        if re.search("train|valid", name, re.IGNORECASE):
            raise ValueError(f"{EVAL_RESULTS} was measured on {name}; a card holds results of test data")
    found, results = [], record["results"]
    for group, metrics in results.items():
        source, _, language = group.partition("/")
        dataset_type, dataset_name = DATASETS.get(source, (re.sub(r"[^\w./-]+", "-", source), source))
        for name, value in metrics.items():
            head, _, rest = name.partition("_")
            if head not in TITLES or rest == "rows" or rest.endswith("support"):
                continue
            title, task = TITLES[head]
            found.append(
                EvalResult(
                    task_type=task,
                    dataset_type=dataset_type,
                    dataset_name=f"{dataset_name} ({language})" if language else dataset_name,
                    dataset_config=language or None,
                    dataset_split="test",
                    metric_type=rest.partition("@")[0].rpartition("_")[2],
                    metric_name=f"{title} {rest.replace('_', ' ')}",
                    metric_value=round(value, 4),
                )
            )
    order = list(dict.fromkeys(result.unique_identifier for result in found))  # as model-index groups them
    return sorted(found, key=lambda result: order.index(result.unique_identifier))


def fill(text, contents):
    """The text with each section's content between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    for name, content in contents.items():
        head, found, rest = text.partition(f"<!-- {name} -->\n")
        _, closed, tail = rest.partition(f"<!-- /{name} -->")
        if not found or not closed:
            raise ValueError(f"README.md has no <!-- {name} --> ... <!-- /{name} -->")
        text = f"{head}{found}{content}{closed}{tail}"
    return text


def card_text(folder):
    """The card of a checkpoint's folder, with front matter and tables as the recorded results say.

    Raises:
        OSError: README.md or a recorded result is not there.
        ValueError: results do not belong together, or the metadata are not valid.
    """
    path = folder / "README.md"
    if not path.exists():
        raise OSError(f"{folder} has no README.md: python -m tsn.hub.card {folder} begins one")
    text = path.read_text(encoding="utf-8")
    names = ["results", *(name for name in SECTIONS if f"<!-- {name} -->" in text and name != "results")]
    try:
        contents = {name: SECTIONS[name](folder) for name in names}
        expected = evaluation_results(read(folder, EVAL_RESULTS))
    except FileNotFoundError as error:
        raise OSError(f"README.md needs {error.filename}, which make eval, int8 or bench writes") from error
    card = ModelCard(fill(text, contents))
    card.data.model_name = card.data.model_name or folder.name
    card.data.eval_results = expected
    card.data.metrics = sorted({result.metric_type for result in expected} & {"f1", "precision", "recall", "accuracy"})
    content = str(card)
    again = ModelCard(content)
    if again.data.eval_results != expected or again.text != card.text or str(again) != content:
        raise ValueError("README.md's metadata do not come back as they were written")
    return content


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tsn.hub.card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", default=ROOT, help="folder of the model (default: this one)")
    folder = Path(parser.parse_args(argv).checkpoint).resolve()
    try:
        if not (folder / "README.md").exists() and (folder / "config.json").exists():
            (folder / "README.md").write_bytes(NEW_CARD.format(name=folder.name, task=TASK).encode())
        (folder / "README.md").write_bytes(card_text(folder).encode())
        if (folder / RESULTS / "bench.json").exists():
            records = (read(folder, RESULTS / "bench.json"), read(folder, EVAL_RESULTS))
            plot_quality(*records, read(folder, INT8_RESULTS), folder / RESULTS / "quality.png")
    except (OSError, ValueError) as error:
        sys.exit(f"tsn.hub.card: {error}")


if __name__ == "__main__":
    main()
