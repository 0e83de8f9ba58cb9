"""Timings to figures: medians with their spread, speeds and ratios. Standard library only.

A ratio is taken within each repeat, between what ran right after one another, and then the median of these: a machine
that is slow for a while is slow for both.
"""

from statistics import median


def spread(values):
    """`{"median", "min", "max"}` of numbers."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def speed(row, unit):
    """`row[unit]` (`"texts"`, `"words"` or `"tokens"`) a second, as `spread` gives it."""
    return spread([row[unit] / seconds for seconds in row["seconds"]])


def speed_ratio(row, reference):
    """How many times the words a second of `reference` a row has, as `spread` gives it."""
    pairs = zip(row["seconds"], reference["seconds"])
    return spread([row["words"] / a * b / reference["words"] for a, b in pairs])


def add_figures(record):
    """Adds to the raw timings of a run all that follows from them.

    Args:
        record: dict of `throughput`, `length` and `int8`, as `measures` gives them; gets `summary`, a list of
            `{"name", "ratios": {kind: spread}}`.
    """
    for row in record["throughput"]:
        row["per_second"] = {unit: speed(row, unit) for unit in ("texts", "words", "tokens")}
        if row["system"] == "TSN" and row["mode"] == "batches":
            row["of_limit"] = speed_ratio(row, _find(record, "the limit", row["engine"], row["kind"]))
    for row in record["length"]:
        reference = next(r for r in record["length"] if r["engine"] == row["engine"] and r["length"] == 1000)
        row["microseconds_per_word"] = spread([1e6 * seconds / row["words"] for seconds in row["seconds"]])
        row["cost_ratio"] = speed_ratio(reference, row)
    for row in record["int8"]:
        row["ratio"] = spread([a / b for a, b in zip(row["seconds"]["onnx"], row["seconds"]["int8"])])
    record["summary"] = summarize(record)


def summarize(record):
    """The ratios that count, by kind of text."""
    comparisons = [
        ("TSN, fp32 torch / the limit", ("TSN", "torch"), ("the limit", "torch")),
        ("TSN, fp32 ONNX / the limit", ("TSN", "onnx"), ("the limit", "onnx")),
        ("TSN, int8 ONNX / the limit", ("TSN", "int8"), ("the limit", "int8")),
        ("TSN, fp32 torch / three pipelines", ("TSN", "torch"), ("three pipelines", "torch")),
        ("TSN, int8 ONNX / three pipelines", ("TSN", "int8"), ("three pipelines", "torch")),
        ("TSN, int8 ONNX / usual script", ("TSN", "int8"), ("usual script", "int8")),
    ]
    kinds = list(dict.fromkeys(row["kind"] for row in record["throughput"]))
    return [
        {
            "name": name,
            "ratios": {kind: speed_ratio(_find(record, *one, kind), _find(record, *other, kind)) for kind in kinds},
        }
        for name, one, other in comparisons
    ]


def _find(record, system, engine, kind):
    """The row of a system over all texts of a kind: of TSN's two, the one in batches."""
    rows = [r for r in record["throughput"] if (r["system"], r["engine"], r["kind"]) == (system, engine, kind)]
    return next(r for r in rows if r["mode"] == "batches" or system != "TSN")
