"""Recorded benchmarks as the card and the reports of `bench` show them: tables and a picture."""

from statistics import median

from matplotlib.figure import Figure

from tsn.heads import MAIN_METRICS
from tsn.tables import markdown_table

ENGINES = {"torch": "fp32 torch", "onnx": "fp32 ONNX", "int8": "int8 ONNX", "openvino": "int8 OpenVINO"}


def number(value):
    """With thousands separators, and one decimal below 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def ratio(spread):
    """`0.93 (0.91-0.95)`: the median and the spread."""
    return f"{spread['median']:.2f} ({spread['min']:.2f}-{spread['max']:.2f})"


def summary(record):
    """The ratios, and what they were measured on."""
    return f"{summary_table(record)}\n{circumstances(record)}"


def circumstances(record):
    """The machine, versions, texts and repeats of a run."""
    machine = record["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    features = [name if there else f"no {name}" for name, there in machine["features"].items()]
    return (
        f"{', '.join([machine['cpu'], *features])}; {machine['cores']} cores, {record['threads']} threads; "
        f"{machine['os']}; {versions}; {record['date']}; "
        f"load average at the start {machine['load']}.\n\n"
        f"Texts: {record['texts']}. Medians of {record['repeats']} repeats, in each of which every system runs once; "
        "in brackets or beside them the lowest and the highest. Ratios are taken within a repeat, medians after.\n"
    )


def loading_table(record):
    """Of each way of use, the medians to the first answer with the lowest and highest, and the peak of its memory."""
    lines = [["From the start to the first answer", "seconds", "lowest to highest", "processor seconds", "peak MB"]]
    for way, values in record["ways"].items():
        seconds, processor, peaks = values["seconds"], values["cpu_seconds"], values["peak_bytes"]
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        name = f"`pipeline`, {ENGINES[way]}" if way in ENGINES else f"`{way}`"
        lines.append([name, f"{median(seconds):.1f}", spread, f"{median(processor):.1f}", number(median(peaks) / 1e6)])
    return markdown_table(lines)


def summary_table(record):
    kinds = list(record["summary"][0]["ratios"])
    lines = [["", *kinds]]
    lines += [[row["name"], *(ratio(row["ratios"][kind]) for kind in kinds)] for row in record["summary"]]
    # The long documents are joined from the news.
    for engine in dict.fromkeys(row["engine"] for row in record["length"]):
        longest = max((row for row in record["length"] if row["engine"] == engine), key=lambda row: row["length"])
        name = f"cost of a word, {longest['length']:,} / 1,000 words, {ENGINES[engine]}"
        lines.append([name, *(ratio(longest["cost_ratio"]) if kind == "news" else "" for kind in kinds)])
    return markdown_table(lines)


def multitask_table(record):
    """The main metric of each head, by model, in points."""
    runs = {run["name"]: run for run in record["runs"]}
    lines = [["", *(MAIN_METRICS[task] for task in MAIN_METRICS), "steps", "minutes"]]

    def line(name, metrics, of):
        cells = [f"{100 * metrics[MAIN_METRICS[task]]:.1f}" for task in MAIN_METRICS]
        steps, minutes = (sum(run[key] for run in of) for key in ("steps", "seconds"))
        lines.append([name, *cells, str(steps), f"{minutes / 60:.0f}"])

    if "start" in runs:
        line("what all start from", runs["start"]["metrics"], [])
    single = [runs[task] for task in MAIN_METRICS if task in runs]
    if len(single) == len(MAIN_METRICS):
        best = {MAIN_METRICS[task]: run["metrics"][MAIN_METRICS[task]] for task, run in zip(MAIN_METRICS, single)}
        line("three models, one task each", best, single)
    if "joint" in runs:
        line("one model, three tasks", runs["joint"]["metrics"], [runs["joint"]])
    if "adapter" in runs:
        line("LoRA adapter, base in 8 bits", runs["adapter"]["metrics"], [runs["adapter"]])
    return markdown_table(lines)


def plot_quality(record, fp32, int8, path):
    """Each head's main metric against words a second, in fp32 and in int8.

    Args:
        record: Of a run, as `bench.json` holds it.
        fp32, int8: What `eval.py` recorded of each.
        path: Of the PNG.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    rows = {
        row["engine"]: row["per_second"]["words"]
        for row in record["throughput"]
        if row["system"] == "TSN" and row["mode"] == "batches" and row["kind"] == "sentences"
    }
    speeds = [rows["torch"], rows["int8"]]
    medians = [speed["median"] for speed in speeds]
    spread = [[m - s["min"] for m, s in zip(medians, speeds)], [s["max"] - m for m, s in zip(medians, speeds)]]
    heads = {"ner_f1": ("NER F1", "#1a73e8"), "sentiment_macro_f1": ("sentiment macro F1", "#e8710a")}
    for metric, (name, colour) in {**heads, "topic_f1": ("topic F1", "#b80672")}.items():
        values = [results["results"]["all"][metric] for results in (fp32, int8)]
        axes.errorbar(medians, values, xerr=spread, fmt="o-", color=colour, capsize=2, label=name)
        for x, y in zip(medians, values):
            axes.annotate(f"{y:.3f}", (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    for x, name in zip(medians, ("fp32 torch", "int8 ONNX")):
        axes.annotate(name, (x, 0.02), ha="center", color="#3c4043")
    axes.set(xlim=(0, 1.2 * max(medians)), ylim=(0, 1), xlabel="words a second, sentences", ylabel="test split, all")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc=(0.36, 0.2))
    figure.savefig(path, dpi=150)
