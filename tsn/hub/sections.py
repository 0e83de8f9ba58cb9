"""The tables of the model card and of the pages in docs/, as Markdown, from recorded results.

`SECTIONS` maps the name of a section to a function of a checkpoint's folder. A page shows a section between
`<!-- name -->` and `<!-- /name -->`, see `tsn.hub.card`.
"""

import json
import math
import re
import struct

from tsn.heads import MAIN_METRICS
from tsn.hub import curve
from tsn.hub.figures import loading_table, multitask_table, ratio, summary
from tsn.hub.files import read_record
from tsn.paths import EVAL_RESULTS, INT8_RESULTS, OPENVINO_RESULTS, RESULTS
from tsn.tables import markdown_table, results_table

PUBLISHED = RESULTS / "published.json"
WILD_RESULTS = RESULTS / "wild" / "eval_results.json"
SERVING = RESULTS / "serving.json"
CURVE, CURVE_PICTURE = RESULTS / "curve.json", RESULTS / "curve.png"
LOADING = RESULTS / "loading.json"
EVERYDAY = RESULTS / "everyday" / "everyday.md"
INT8_MODELS = {  # of each engine: the results, and what holds the weights in fp32 and int8
    "ONNX": (INT8_RESULTS, "model.onnx", "model_quantized.onnx"),
    "OpenVINO": (OPENVINO_RESULTS, "model.bin", "model_quantized.bin"),
}
SMALL = "small"
COMPARED = (*MAIN_METRICS.values(), "topic_end_to_end_f1")
HEADLINE_ROWS = 6
HEADLINES = (  # task, source of the data, name of the test set, metric; the first six that were measured are shown
    ("Entities, English news", "conll2003", "CoNLL-2003", "ner_f1"),
    ("Entities, seven languages", "wikineural", "WikiNEuRal", "ner_f1"),
    ("Sentiment, English tweets", "tweeteval", "TweetEval", "sentiment_macro_recall"),
    ("Sentiment, tweets in five languages", "umsab", "UMSAB", "sentiment_macro_f1"),
    ("Topics, research abstracts", "inspec", "Inspec", "topic_f1"),
    ("Topics and their sentiment, reviews", "mams", "MAMS", "topic_end_to_end_f1"),
    ("Topics, restaurant reviews", "restaurant14", "SemEval-2014", "topic_f1"),
)
MEASURES = {
    "ner_f1": "span F1",
    "topic_f1": "span F1",
    "topic_end_to_end_f1": "span F1",
    "sentiment_macro_f1": "macro F1",
    "sentiment_macro_recall": "macro recall",
}


def read(folder, path):
    """A recorded result in a checkpoint's folder."""
    return read_record(folder / path)


def results_section(folder):
    """Everything that `eval.py` measured on the test split."""
    return results_table(read(folder, EVAL_RESULTS)["results"])


def wild_section(folder):
    """What `eval.py` measured on `test_wild.parquet`, if it did."""
    if not (folder / WILD_RESULTS).exists():
        return "These weights have not been measured on it yet: `make eval` does.\n"
    record = read(folder, WILD_RESULTS)
    _check_weights(folder, WILD_RESULTS, record)
    return f"{results_table(record['results'])}\nThe record: [eval_results.json](../{WILD_RESULTS.as_posix()}).\n"


def small_section(folder):
    """The main metrics of the model in `small/` beside the folder's own, on both test files."""
    if not (folder / SMALL / WILD_RESULTS).exists():
        return "It has not been measured here yet: `make eval MODEL=small` does.\n"
    lines = [["", "", "Topics F1", "Entities F1", "Sentiment macro F1", "End-to-end F1"]]
    for name, path in (("test", EVAL_RESULTS), ("test_wild", WILD_RESULTS)):
        full, small = (read(model, path)["results"]["all"] for model in (folder, folder / SMALL))
        values = [(full[metric], small[metric]) for metric in COMPARED]
        lines.append([name, "full", *(f"{one:.4f}" for one, _ in values)])
        lines.append(["", "small", *(f"{other:.4f}" for _, other in values)])
        lines.append(["", "difference", *(f"{other - one:+.4f}" for one, other in values)])
    return markdown_table(lines, left=2)


def everyday_section(folder):
    """What `tsn.evaluation.everyday` found wrong with the answers to everyday texts, if it was run."""
    if not (folder / EVERYDAY).exists():
        return "These weights have not answered them yet: `make eval` asks them.\n"
    return (folder / EVERYDAY).read_text(encoding="utf-8")


def _check_weights(folder, path, record):
    if record["weights_sha256"] != read(folder, EVAL_RESULTS)["weights_sha256"]:
        raise ValueError(f"{path} was measured on other weights than {EVAL_RESULTS}: make eval")


def headline_section(folder):
    """One figure for each task and main test set, beside the best published one that is on record."""
    results = read(folder, EVAL_RESULTS)["results"]
    if (folder / WILD_RESULTS).exists():
        results |= read(folder, WILD_RESULTS)["results"]
    published = read(folder, PUBLISHED)
    lines = [["Task", "Test set", "Texts", "Measure", "TSN", "Published"]]
    for task, source, name, metric in [row for row in HEADLINES if row[3] in results.get(row[1], {})][:HEADLINE_ROWS]:
        entries = [entry for entry in published if (entry["source"], entry["metric"]) == (source, metric)]
        best = max(entries, key=lambda entry: entry["value"], default=None)
        lines.append(
            [
                task,
                name,
                f"{results[source]['rows']:,}",
                MEASURES[metric],
                f"{results[source][metric]:.3f}",
                f"{best['value']:.3f} ({best['system']})" if best else "",
            ]
        )
    return markdown_table(lines, left=2)


def model_section(folder):
    """Size and shape of the model, read from its files."""
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
    """Sentiment at the annotated topics of reviews, read at their words and, for comparison, from the whole text."""
    results = read(folder, EVAL_RESULTS)["results"]
    if (folder / WILD_RESULTS).exists():
        results |= {name: group for name, group in read(folder, WILD_RESULTS)["results"].items() if name != "all"}
    groups = {name: group for name, group in results.items() if "topic_sentiment_support" in group}
    lines = [["Macro F1 (accuracy)", "Topics", "from its text", "at its words", "end-to-end F1"]]
    for name, group in groups.items():
        cells = [f"{group['topic_sentiment_support']:,}"]
        for reading in ("topic_sentiment_from_text", "topic_sentiment"):
            cells.append(f"{group[f'{reading}_macro_f1']:.3f} ({group[f'{reading}_accuracy']:.3f})")
        lines.append([name, *cells, f"{group['topic_end_to_end_f1']:.3f}"])
    return markdown_table(lines)


def published_section(folder):
    """Results beside published ones on the same test sets."""
    results = read(folder, EVAL_RESULTS)["results"]
    lines = [["Test set", "Metric", "Published by", "published", "TSN"]]
    for entry in read(folder, PUBLISHED):
        if entry["metric"] not in results.get(entry["source"], {}):
            continue
        value = results[entry["source"]][entry["metric"]]
        by = f"[{entry['system']}]({entry['url']}), {entry['citation']}"
        lines.append([entry["source"], entry["metric"], by, f"{entry['value']:.3f}", f"{value:.3f}"])
    return markdown_table(lines, left=3)


def multitask_section(folder):
    """One model for three tasks beside three models and an adapter; and the speed of `train.py`."""
    runs, speed = read(folder, RESULTS / "multitask.json"), read(folder, RESULTS / "training.json")
    return (
        f"{multitask_table(runs)}\n"
        f"{runs['machine']['cores']} cores of an {runs['machine']['cpu']}; one run each. `train.py` reaches "
        f"{ratio(speed['throughput_ratio'])} of the throughput of a bare loop over the same batches.\n"
    )


def int8_section(folder, engines=tuple(INT8_MODELS)):
    """Accuracy on the test split and size, fp32 beside int8, in those of the engines that were measured."""
    fp32 = read(folder, EVAL_RESULTS)
    lines, notes = [["Test split", "MB", *MAIN_METRICS.values()]], []
    for engine in engines:
        path, *names = INT8_MODELS[engine]
        if path != INT8_RESULTS and not (folder / path).exists():
            continue
        int8, report = read(folder, path), read(folder, path.parent / "quantization_report.json")
        if int8["weights_sha256"] != report["files"][names[1]]["sha256"]:
            raise ValueError(f"{path} was measured on another file than its quantization_report.json names")
        if fp32["weights_sha256"] != report["weights_sha256"]:
            raise ValueError(f"{EVAL_RESULTS} was measured on other weights than {path}")
        for precision, file, results in zip(("fp32", "int8"), names, (fp32, int8)):
            metrics = [f"{results['results']['all'][metric]:.4f}" for metric in MAIN_METRICS.values()]
            lines.append([f"{precision} {engine}", f"{report['files'][file]['bytes'] / 1e6:.1f}", *metrics])
        notes.append(f"{engine}: {_how_it_was_quantized(report)}")
    return f"{markdown_table(lines)}\n{' '.join(notes)}\n"


def _how_it_was_quantized(report):
    kept = ", ".join(f"`{layer.strip('/')}`" for layer in report["trials"][-1]["fp32_layers"]) or "none"
    machine, files = report["processor"], ", ".join(report["eval_files"])
    gate = f"--max_drop {report['max_drop']} on {files}" if files else "no limit on the drop"
    preset = f" with the preset `{report['preset']}`" if "preset" in report else ""
    processor = f"{machine['name']} ({', '.join(machine['features'])})"
    return f"quantized on {processor}{preset}, {gate}, layers left in fp32: {kept}."


def scoring_section(folder):
    """Throughput and memory of `score.py`, and how it scales."""
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
        f"The reviews of `examples/`, int8 in {record.get('engine', 'ONNX')}, on {machine['cores']} cores of an "
        f"{machine['cpu']}, loading included. With one thread each and without loading, it reaches "
        f"{ratios[len(ratios) // 2]:.2f} "
        f"({ratios[0]:.2f}-{ratios[-1]:.2f}) of the throughput of the pipeline on a list of the same texts. Two "
        f"processes are {one['seconds'] / two['seconds']:.2f} times as fast as one. At {rate:.0f} texts a second and "
        f"core, a billion such texts take {1e9 / rate / 3600:,.0f} core hours; cost grows with the number of words.\n"
    )


def loading_section(folder):
    """Seconds to the first answer and memory of each way of use, if they were measured."""
    if not (folder / LOADING).exists():
        return "Not measured here yet: `make bench` does.\n"
    record = read(folder, LOADING)
    machine, version = record["machine"], record["versions"]
    return (
        f"{loading_table(record)}\n"
        f"A process that answers one short text and ends; medians of {record['repeats']}, all ways in turn, on "
        f"{machine['cores']} cores of an {machine['cpu']} (load average at the start {machine['load']}), torch "
        f"{version['torch']}, transformers {version['transformers']}. Most of it is the import of torch and "
        "transformers. `score.py` takes int8 where it is there.\n"
    )


def serving_section(folder):
    """`serve.py` with many callers and with one, and beside a long document, if it was measured."""
    if not (folder / SERVING).exists():
        return "The server has not been measured here yet: `make bench-serving` does.\n"
    record = read(folder, SERVING)
    machine, many = record["machine"], [turn["many"] for turn in record["turns"]]
    many = sorted(many, key=lambda result: result["texts_per_second"])[len(many) // 2]
    callers = f"{record['callers']} callers"
    # Each of them waits for all others: in a closed loop the mean latency is the callers divided by the throughput.
    rates = sorted(turn["score_per_second"] for turn in record["turns"])
    least = 1000 * record["callers"] / rates[len(rates) // 2] / record["lone"]["median_ms"]
    lines = [["", "texts/s", "median ms", "99th percentile ms", "longest ms"]]
    for name, result in (
        ("a lone caller", record["lone"]),
        ("a lone caller, beside a document", record["lone_beside_document"]),
        (callers, many),
        (f"{callers}, beside a document", record["many_beside_document"]),
    ):
        times = [f"{result[key]:.1f}" for key in ("median_ms", "p99_ms", "max_ms")]
        lines.append([name, f"{result['texts_per_second']:.0f}", *times])
    return (
        f"{markdown_table(lines)}\n"
        f"Short texts, int8 in {record.get('engine', 'ONNX')}, {record['workers']} workers on {machine['cores']} "
        f"cores of an {machine['cpu']}, which the callers use as well. With {callers}, the server "
        f"reaches {ratio(record['of_score'])} of the throughput "
        f"of `score.py` on the same texts, without its loading; their 99th percentile is "
        f"{ratio(record['p99_of_lone_median'])} times the median of a lone caller, of which {least:.1f} is the mean "
        f"that so many callers would wait for at the throughput of `score.py`. The document has 100,000 words; one "
        f"chunk of it takes {record['chunk_ms']:.1f} ms.\n\n"
        "![Which share of the texts is answered within how many milliseconds](../results/serving.png)\n\n"
        "The record: [serving.json](../results/serving.json).\n"
    )


def curve_section(folder):
    """Quality against speed, beside what a user would pick instead, if it was measured."""
    if not (folder / CURVE).exists():
        return "It has not been measured with this model yet: `make bench` does.\n"
    return (
        f"![Quality against words a second of TSN and of the alternatives](../{CURVE_PICTURE.as_posix()})\n\n"
        f"{curve.tables(read(folder, CURVE))}\nThe record: [curve.json](../{CURVE.as_posix()}).\n"
    )


def curve_picture_section(folder):
    """The picture of the curve and where its figures are, if it was measured."""
    if not (folder / CURVE).exists():
        return ""
    return (
        f"![Quality against words a second of TSN and of the alternatives]({CURVE_PICTURE.as_posix()})\n\n"
        "Quality against speed on one core and on two, beside spaCy, VADER, YAKE and an encoder of the size of "
        "GLiNER2's, all on the same texts in the same run ([details](docs/results.md#quality-against-speed)).\n"
    )


def licences_section(folder):
    """The sources of the training data by licence, from the tables of LICENSE.md."""
    text = (folder / "LICENSE.md").read_text(encoding="utf-8")
    sources: dict[str, list[str]] = {}
    for name, licence in re.findall(r"^\| `([^`]+)` .*\| ([^|]+?) +\|$", text, re.MULTILINE):
        sources.setdefault(licence, []).append(name)
    lines = [["Licence", "Sources"], *([licence, ", ".join(names)] for licence, names in sources.items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], ["---", "---"], *lines[1:]))


SECTIONS = {
    "model": model_section,
    "headline": headline_section,
    "results": results_section,
    "wild": wild_section,
    "small": small_section,
    "everyday": everyday_section,
    "topics": topics_section,
    "published": published_section,
    "int8": int8_section,
    "bench": lambda folder: summary(read(folder, RESULTS / "bench.json")),
    "curve": curve_section,
    "curve-picture": curve_picture_section,
    "multitask": multitask_section,
    "scoring": scoring_section,
    "loading": loading_section,
    "serving": serving_section,
    "licences": licences_section,
}
