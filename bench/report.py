"""A run as Markdown tables and as plots."""

from statistics import median

from matplotlib.figure import Figure

from tsn.hub.figures import ENGINES, circumstances, number, ratio, summary_table
from tsn.tables import markdown_table

COLOURS = {"the limit": "#9aa0a6", "TSN": "#1a73e8", "three pipelines": "#e8710a", "usual script": "#b80672"}


def markdown(record):
    """All tables of a run that `figures.add_figures` has been through."""
    parts = ["# Benchmark\n", circumstances(record)]
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
        "(in brackets), a batch on all threads or, side by side, one on each. Three pipelines and the usual script "
        "get the chunks that TSN cuts, and the cutting is not in their time; the usual script pads and truncates each "
        "to 128 tokens.\n",
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
        return f"{name} ({row['batch_size']}{' on each thread' if row['side_by_side'] else ''})"
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
