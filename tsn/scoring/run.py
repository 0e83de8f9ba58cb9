"""Scores tables of any size, part by part: what `score.py` does."""

import math
import os
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tsn.data.files import is_hub_id, reads_once
from tsn.loading import chosen_files, load
from tsn.paths import sha256
from tsn.scoring.arguments import THRESHOLDS, check_arguments
from tsn.scoring.parts import Parts, digest, output_names, part_content, split_columns, write_file, write_part
from tsn.scoring.report import report_page
from tsn.scoring.rows import read_table, require_column
from tsn.scoring.summary import Summary

PART_ROWS, PART_CHARACTERS = 500, 4_000_000
ROW_FORMAT = 3  # raised whenever output rows or their summaries change: old parts cannot be joined with new ones


def score_part(pipe, rows, columns, batch_size, suffix):
    """Scores the rows of a part; returns the bytes of its file and the state of its [`Summary`].

    Args:
        pipe: A `TSNPipeline`.
        rows, columns: From `tsn.scoring.parts.split_columns`.
        batch_size: Chunks per forward pass.
        suffix: Of the output file.
    """
    results, summary = score_rows(pipe, rows, batch_size), Summary()
    for result in results:
        summary.count(result)
    return part_content(results, suffix, columns), summary.state()


def score_rows(pipe, rows, batch_size):
    """Returns the output row of each row: its columns and the pipeline's results for its text.

    Args:
        pipe: A `TSNPipeline`.
        rows: From `tsn.scoring.rows.read_table`.
        batch_size: Chunks per forward pass.
    """
    texts = [row.text for row in rows if row.text is not None]
    try:
        results = iter(pipe(texts, batch_size=batch_size))
    except Exception:  # one text must not fail the others
        return [_score_alone(pipe, row) for row in rows]
    return [_scored(row, None if row.text is None else next(results)) for row in rows]


def _score_alone(pipe, row):
    try:
        return _scored(row, None if row.text is None else pipe(row.text))
    except Exception as error:
        return _scored(row._replace(error=f"could not be scored ({type(error).__name__}: {error})"), None)


def kept_name(name):
    """Name of an input column in the output."""
    return output_names([name])[0]


def _scored(row, result):
    columns = dict(zip(output_names(row.columns), row.columns.values()))
    if result is None:
        no_result = {"topics": [], "entities": [], "sentiment": None, "sentiment_scores": None}
        return {**columns, **no_result, "error": row.error}
    spans = {key: [_rounded(span) for span in result[key]] for key in ("topics", "entities")}
    sentiment = result["sentiment"]
    scores = {label: round(value, 4) for label, value in sentiment["scores"].items()}
    return {**columns, **spans, "sentiment": sentiment["label"], "sentiment_scores": scores, "error": None}


def _rounded(span):
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in span.items()}


def cut(rows):
    """Yields the rows in lists of `PART_ROWS`, or fewer if their texts are long."""
    part, characters = [], 0
    for row in rows:
        part.append(row)
        characters += len(row.text or "")
        if len(part) == PART_ROWS or characters >= PART_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def input_rows(name, arguments):
    """Yields the rows of an input, and fails if none of them has the text column."""
    rows = read_table(name, arguments.text_column, arguments.split)
    return require_column(rows, name, arguments.text_column)


def score(arguments):
    """Runs the command: checks the options, plans the run, scores what is missing and joins the parts.

    Args:
        arguments: From `tsn.scoring.arguments.build_parser`.

    Returns:
        Summary: of all rows, also of those scored by an earlier run.

    Raises:
        FileNotFoundError, ValueError: an option or an input is wrong; the message says which.
        WorkerKilled, WorkerFailed: see `tsn.scoring.workers`.
    """
    check_arguments(arguments)
    if Path(arguments.model).is_dir():  # before the settings are compared with those of an interrupted run
        chosen = chosen_files(arguments.model, arguments.onnx, arguments.device, arguments.openvino_file)
        arguments.onnx, arguments.openvino_file = chosen
    parts = Parts(Path(arguments.output), run_settings(arguments))
    plan = plan_run(arguments)
    count = score_parts(arguments, plan, parts)
    summary = Summary()
    for state in parts.summaries(count):
        summary.add(Summary(state))
    if arguments.report:
        examples = parts.examples(count, kept_name(arguments.text_column))
        page = report_page(summary, examples, ", ".join(Path(name).name for name in arguments.inputs))
        write_file(Path(arguments.report), page.encode("utf-8", "backslashreplace"))
    parts.join(count)
    return summary


def run_settings(arguments):
    """Returns what the output depends on besides the input; parts with other settings are not joined with new ones."""
    return {
        "format": ROW_FORMAT,
        "model": fingerprint(arguments.model, arguments.openvino_file or arguments.onnx),
        "part_rows": PART_ROWS,
        **{name: getattr(arguments, name) for name in ("device", "batch_size", "text_column", *THRESHOLDS)},
    }


class Plan(NamedTuple):
    """Who scores a run's rows.

    Attributes:
        rows: Number of rows in all inputs; None if they can only be read once.
        workers: Number of processes; None on Ray, where it is as many as the cluster has room for.
        load: The function that loads a worker's pipeline, given `options`.
        options: Model, ONNX file, threads of each worker, device.
    """

    rows: int | None
    workers: int | None
    load: Callable
    options: tuple


def plan_run(arguments):
    """Counts the rows and divides the cores among worker processes; returns a [`Plan`]."""
    rows, cores, on_ray = None, arguments.threads or os.cpu_count(), arguments.engine == "ray"
    workers = arguments.threads if on_ray else cores
    if not on_ray and arguments.device != "cpu":
        workers = 1  # processes would share the one GPU
    # Counting reads the inputs once more: a data set would be downloaded twice, and a pipe can be read only once.
    if not any(is_hub_id(name) or reads_once(name) for name in arguments.inputs):
        names = tqdm(arguments.inputs, "counting rows", leave=False)
        rows = sum(1 for name in names for _ in input_rows(name, arguments))
        workers = workers and min(workers, max(math.ceil(rows / PART_ROWS), 1))
    threads = cores if workers == 1 and not on_ray else 1
    thresholds = {name: getattr(arguments, name) for name in THRESHOLDS if getattr(arguments, name)}
    options = (arguments.model, arguments.onnx, threads, arguments.device)
    return Plan(rows, workers, partial(load, openvino_file=arguments.openvino_file, **thresholds), options)


def score_parts(arguments, plan, parts):
    """Scores and writes the parts that are not finished yet; returns the number of all parts."""
    if arguments.engine == "ray":
        from tsn.scoring.cluster import run_tasks
    else:
        from tsn.scoring.workers import run_tasks
    batch_size, suffix, count = arguments.batch_size, parts.output.suffix, 0
    rows = chain.from_iterable(input_rows(name, arguments) for name in arguments.inputs)

    def unfinished():
        nonlocal count
        for index, part in enumerate(cut(rows)):
            count, rows_digest = index + 1, digest(part)
            if parts.is_finished(index, rows_digest):
                _skip(progress, len(part))
            else:
                yield (parts.path(index), len(part), rows_digest), (*split_columns(part, suffix), batch_size, suffix)

    with tqdm(total=plan.rows, desc="scoring", unit=" texts", smoothing=0.02) as progress:
        scored = run_tasks(unfinished(), plan.load, score_part, plan.options, plan.workers)
        for (path, size, rows_digest), (content, state) in scored:
            write_part(path, content, rows_digest, state)
            progress.update(size)
    return count


def _skip(progress, size):
    """Moves a progress bar on without counting it as speed: an earlier run did this."""
    progress.initial += size
    progress.n += size
    progress.last_print_n += size
    progress.refresh()


def fingerprint(model, file):
    """Identifies a model: by the SHA-256 of its files if it is a folder, otherwise by its Hub id."""
    folder = Path(model)
    if not folder.is_dir():
        return [file, str(model)]
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    paths = [
        *(folder / name for name in names),
        *sorted([*folder.glob("onnx/*.onnx"), *folder.glob("openvino/*.bin")]),
    ]
    return [file, *(f"{path.name} {sha256(path)}" for path in paths if path.exists())]
