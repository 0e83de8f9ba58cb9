"""The recorded curve, quality against speed, as tables: `results/curve.json`, which `python -m bench.curve` writes."""

from tsn.hub.figures import number, ratio
from tsn.tables import ABSENT, markdown_table

METRICS = {
    "topic_f1": "topics, F1",
    "ner_f1": "entities, F1",
    "sentiment_macro_f1": "sentiment, macro F1",
    "topic_end_to_end_f1": "topics with the right sentiment, F1",
}
"""What quality is, and what it is called."""
REFERENCE = "torch fp32"
"""What the speed of all systems is compared with."""
UNITS = ("fp32", "bf16", "int8")


def tables(record):
    """All tables of a run that `bench.curve_figures.add_figures` has been through, and what they were measured on."""
    return "\n".join(
        [
            main_table(record),
            circumstances(record),
            "How much of what the processor can do each engine uses:\n",
            limits_table(record),
            "Every set:\n",
            *(sets_table(record, metric) for metric in METRICS),
        ]
    )


def main_table(record):
    """A row for each system: the mean quality over the sets, and words a second for each number of cores."""
    counts = list(record["limits"])
    lines = [["", *METRICS.values(), *_each(counts, "words/s"), *_each(counts, f"times {REFERENCE}")]]
    for system in record["systems"]:
        quality = [f"{system['quality'][m]['mean']:.3f}" if m in system["quality"] else ABSENT for m in METRICS]
        words = [number(system["speed"][count]["per_second"]["median"]) for count in counts]
        times = [ratio(system["speed"][count]["times"]) for count in counts]
        lines.append([system["name"], *quality, *words, *times])
    return markdown_table(lines)


def circumstances(record):
    """The machine, versions and texts of a run, and what was left out of it."""
    machine = record["machine"]
    features = [name if there else f"no {name}" for name, there in machine["features"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    sets = "; ".join(f"{title}: {', '.join(record['sets'][metric])}" for metric, title in METRICS.items())
    left_out = f" Left out: {'; '.join(record['left_out'])}." if record["left_out"] else ""
    return (
        f"{', '.join([machine['cpu'], *features])}; {machine['cores']} cores; {machine['os']}; {versions}; "
        f"{record['date']}; load average at the start {machine['load']}.{left_out}\n\n"
        f"{record['texts']:,} English test texts, {record['words']:,} words between white space, at most "
        f"{record['rows_per_set']} rows of each set for each head, dealt into {record['slices']} slices of the same "
        "mixture. In each turn every system reads one slice. Speeds are medians over the turns; times as fast is "
        "taken within a turn, and in brackets are the lowest and the highest. A system runs in a process of its own, "
        "pinned to as many cores as it has threads, or, where it has none, processes. Quality is measured as "
        f"`eval.py` does it, of each set, and the mean over the sets is shown. The sets: {sets}.\n"
    )


def limits_table(record):
    """Of each of TSN's engines the words a second that the processor's units could do, and its share of them."""
    counts = list(record["limits"])
    lines = [["", "operations a word, 10^6", *_each(counts, "10^9 operations/s of the units")]]
    lines[0] += [*_each(counts, "words/s they could do"), *_each(counts, "share reached")]
    for system in [system for system in record["systems"] if system["precision"]]:
        a_word = record["operations_per_word"][system["model"]]
        units = [record["limits"][count][system["precision"]] for count in counts]
        shares = [f"{system['speed'][count]['of_limit']:.2f}" for count in counts]
        cells = [number(a_word / 1e6), *(number(unit / 1e9) for unit in units)]
        lines.append([system["name"], *cells, *(number(unit / a_word) for unit in units), *shares])
    return markdown_table(lines)


def sets_table(record, metric):
    """One metric on each set, a row for each system that has it."""
    sets = record["sets"][metric]
    lines = [[METRICS[metric], *sets]]
    for system in record["systems"]:
        if metric in system["quality"]:
            values = system["quality"][metric]["sets"]
            lines.append([system["name"], *(f"{values[source]:.3f}" for source in sets)])
    return markdown_table(lines)


def _each(counts, title):
    return [f"{title}, {count} {'core' if count == '1' else 'cores'}" for count in counts]
