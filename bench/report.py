"""A run as Markdown tables and as plots."""

from statistics import median

from matplotlib.figure import Figure

from table_tsn import MAIN_METRICS, markdown_table

ENGINES = {"torch": "fp32 torch", "onnx": "fp32 ONNX", "int8": "int8 ONNX"}
COLOURS = {"the limit": "#9aa0a6", "TSN": "#1a73e8", "three pipelines": "#e8710a", "usual script": "#b80672"}


def number(value):
    """With thousands, and decimals below 100."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def ratio(spread):
    """`0.93 (0.91-0.95)`: the median and the spread."""
    return f"{spread['median']:.2f} ({spread['min']:.2f}-{spread['max']:.2f})"


def markdown(record):
    """All tables of a run that `figures.add_figures` has been through."""
    parts = ["# Benchmark\n", _circumstances(record)]
    for kind in dict.fromkeys(row["kind"] for row in record["throughput"]):
        rows = [row for row in record["throughput"] if row["kind"] == kind]
        first = rows[0]
        parts += [
            f"## {kind.capitalize()}\n",
            f"{first['texts']:,} texts, {first['words']:,} words, {first['tokens']:,} tokens.\n",
            throughput_table(rows),
        ]
    parts += [
        "The limit is the bare model on chunks already tokenized, sorted by length and padded, at its best batch size "
        "(in brackets; `rows` stands for single rows side by side, a thread each). Three pipelines and the usual "
        "script get the chunks that TSN cuts, and the cutting is not in their time; the usual script pads and "
        "truncates each to 128 tokens.\n",
        "## One document that grows\n",
        length_table(record["length"]),
        "## Memory and files\n",
        memory_table(record["memory"]),
        "Memory is the peak of a new process, libraries included, that goes through the news.\n",
        "## Bare int8 against bare fp32 ONNX\n",
        int8_table(record["int8"]),
        "## Summary\n",
        "How many times as fast, in words a second; TSN in batches.\n",
        summary_table(record),
    ]
    return "\n".join(parts)


def summary(record):
    """The ratios alone, with what they were measured on."""
    return f"{summary_table(record)}\n{_circumstances(record)}"


def _circumstances(record):
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


def throughput_table(rows):
    lines = [["System", "Texts", "texts/s", "words/s", "lowest to highest", "tokens/s", "of the limit"]]
    for row in rows:
        per_second = row["per_second"]
        words = per_second["words"]
        lines.append(
            [
                _name(row),
                f"{row['texts']:,}",
                number(per_second["texts"]["median"]),
                number(words["median"]),
                f"{number(words['min'])} to {number(words['max'])}",
                number(per_second["tokens"]["median"]),
                ratio(row["of_limit"]) if "of_limit" in row else "",
            ]
        )
    return markdown_table(lines)


def _name(row):
    name = f"{row['system']}, {ENGINES[row['engine']]}"
    if row["system"] == "the limit":
        return f"{name} ({'rows' if row['side_by_side'] else row['batch_size']})"
    if row["system"] == "TSN":
        return f"{name}, {row['mode']}"
    return name


def length_table(rows):
    lines = [["Engine", "words", "microseconds a word", "lowest to highest", "to 1,000 words"]]
    for row in rows:
        cost = row["microseconds_per_word"]
        lines.append(
            [
                ENGINES[row["engine"]],
                f"{row['length']:,}",
                number(cost["median"]),
                f"{number(cost['min'])} to {number(cost['max'])}",
                ratio(row["cost_ratio"]),
            ]
        )
    return markdown_table(lines)


def memory_table(rows):
    lines = [["System", "peak MB", "model files MB"]]
    for row in rows:
        name = f"{row['system']}, {ENGINES[row['engine']]}"
        lines.append([name, number(row["peak_bytes"] / 1e6), number(row["disk_bytes"] / 1e6)])
    return markdown_table(lines)


def int8_table(rows):
    lines = [["Tokens", "fp32 ms", "int8 ms", "times as fast"]]
    for row in rows:
        shape = f"{row['batch']} x {row['tokens']}"
        times = [1e3 * median(row["seconds"][engine]) / row["runs"] for engine in ("onnx", "int8")]
        lines.append([shape, *(f"{time:.1f}" for time in times), ratio(row["ratio"])])
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


def plot_throughput(record, path):
    """Bars of words a second, of each system and kind of text."""
    kinds = list(dict.fromkeys(row["kind"] for row in record["throughput"]))
    figure = Figure(figsize=(4 + 3.2 * len(kinds), 4.4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True), kinds):
        rows = [row for row in record["throughput"] if row["kind"] == kind]
        names = [_name(row).split(" (")[0] for row in rows]
        words = [row["per_second"]["words"] for row in rows]
        medians = [found["median"] for found in words]
        errors = [[m - found["min"] for m, found in zip(medians, words)]]
        errors.append([found["max"] - m for m, found in zip(medians, words)])
        colours = [COLOURS[row["system"]] for row in rows]
        bars = axes.barh(names, medians, xerr=errors, color=colours, error_kw={"ecolor": "#3c4043", "capsize": 2})
        axes.bar_label(bars, labels=[number(m) for m in medians], padding=3, fontsize=8)
        axes.margins(x=0.15)
        axes.set_title(kind)
        axes.set_xlabel("words a second")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    figure.savefig(path, dpi=150)


def plot_length(record, path):
    """Microseconds a word against the words of a document, a line for each engine."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for engine, colour in zip(dict.fromkeys(row["engine"] for row in record["length"]), ("#1a73e8", "#e8710a")):
        rows = [row for row in record["length"] if row["engine"] == engine]
        lengths, costs = [row["length"] for row in rows], [row["microseconds_per_word"] for row in rows]
        axes.plot(lengths, [cost["median"] for cost in costs], "o-", color=colour, label=f"TSN, {ENGINES[engine]}")
        axes.fill_between(lengths, [c["min"] for c in costs], [c["max"] for c in costs], color=colour, alpha=0.2, lw=0)
    axes.set_xscale("log")
    ticks = sorted({row["length"] for row in record["length"]})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("words of the document")
    axes.set_ylabel("microseconds a word")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


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
