"""Scores tables of any size, part by part: what `score.py` does."""

import os
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from tsn.data.files import is_hub_id, reads_once
from tsn.paths import sha256
from tsn.scoring.parts import Parts, digest, output_names, part_content, split_columns, write_file, write_part
from tsn.scoring.report import report_page
from tsn.scoring.rows import read_table, require_column
from tsn.scoring.summary import Summary

PART_ROWS, PART_CHARACTERS = 500, 4_000_000


def load(model, onnx_file, threads, device):
    """The pipeline; int8 on a CPU where the model has it, if `onnx_file` is `"auto"`."""
    import torch
    from transformers import AutoTokenizer, logging

    from modeling_tsn import TSNModel
    from pipeline_tsn import TSNPipeline

    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    options = {}
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: there is no such device here")
    if onnx_file == "auto" and device == "cpu":
        onnx_file = "model_quantized.onnx" if _has(model, "model_quantized.onnx") else "none"
    if onnx_file not in ("auto", "none"):
        options = {"onnx_file": onnx_file, "num_threads": threads}
    loaded = TSNModel.from_pretrained(model, **options)
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    return TSNPipeline(model=loaded.eval(), tokenizer=tokenizer, device=device)


def _has(model, name):
    from transformers.utils import cached_file

    try:
        return bool(cached_file(model, name, subfolder="onnx"))
    except OSError:
        return False


def score_part(pipe, rows, columns, batch_size, suffix):
    """Scores rows and `columns` of `split_columns`; returns the bytes of their part's file, and their summary."""
    results, summary = score_rows(pipe, rows, batch_size), Summary()
    for result in results:
        summary.count(result)
    return part_content(results, suffix, columns), summary.state()


def score_rows(pipe, rows, batch_size):
    """Each row's columns with what was found in its text.

    Args:
        pipe: A `TSNPipeline`.
        rows: Of `tsn.scoring.rows.read_table`.
        batch_size: Chunks of a forward pass.
    """
    texts = [row.text for row in rows if row.text is not None]
    try:
        found = iter(pipe(texts, batch_size=batch_size))
    except Exception:  # whichever text it was, the others are not to suffer
        return [_alone(pipe, row) for row in rows]
    return [_scored(row, None if row.text is None else next(found)) for row in rows]


def _alone(pipe, row):
    try:
        return _scored(row, None if row.text is None else pipe(row.text))
    except Exception as error:
        return _scored(row._replace(error=f"could not be scored ({type(error).__name__}: {error})"), None)


def kept_name(name):
    """What a column of the input is called in the output."""
    return output_names([name])[0]


def _scored(row, result):
    columns = dict(zip(output_names(row.columns), row.columns.values()))
    if result is None:
        return {
            **columns,
            "topics": [],
            "entities": [],
            "sentiment": None,
            "sentiment_scores": None,
            "error": row.error,
        }
    spans = {key: [_rounded(span) for span in result[key]] for key in ("topics", "entities")}
    sentiment = result["sentiment"]
    scores = {label: round(value, 4) for label, value in sentiment["scores"].items()}
    return {**columns, **spans, "sentiment": sentiment["label"], "sentiment_scores": scores, "error": None}


def _rounded(span):
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in span.items()}


def cut(rows):
    """Yields lists of `PART_ROWS` rows, or of fewer where their texts are long."""
    part, characters = [], 0
    for row in rows:
        part.append(row)
        characters += len(row.text or "")
        if len(part) == PART_ROWS or characters >= PART_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def input_rows(path, text_column, split):
    """The rows of an input, one of which at least has the column."""
    return require_column(read_table(path, text_column, split), path, text_column)


def score(arguments):
    """The command; returns the [`Summary`]."""
    output = Path(arguments.output)
    if output.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"--output must end in .jsonl or .parquet, not {output.name!r}")
    if not output.parent.is_dir():
        raise ValueError(f"--output: there is no folder {output.parent}")
    if arguments.report and not Path(arguments.report).parent.is_dir():
        raise ValueError(f"--report: there is no folder {Path(arguments.report).parent}")
    for name, path in (("output", output), ("report", Path(arguments.report or os.devnull))):
        if any(path.resolve().is_relative_to(Path(other).resolve()) for other in arguments.inputs):
            raise ValueError(f"--{name} {path} is one of the inputs, or lies in one")
    if arguments.report and output.resolve() == Path(arguments.report).resolve():
        raise ValueError("--report and --output are the same file")
    settings = {"model": fingerprint(arguments.model, arguments.onnx), "device": arguments.device}
    settings |= {"format": 2}  # of the rows: parts of another one do not go with them
    settings |= {"batch_size": arguments.batch_size, "text_column": arguments.text_column, "part_rows": PART_ROWS}
    parts, summary, count = Parts(output, settings), Summary(), 0
    reading = (arguments.text_column, arguments.split)
    total, workers = None, arguments.threads
    on_ray = arguments.engine == "ray"
    if not on_ray:
        workers = 1 if arguments.device != "cpu" else workers or os.cpu_count()
    # To count rows, they are read once more: a data set would be downloaded twice, and a pipe is gone.
    if not any(is_hub_id(name) or reads_once(name) for name in arguments.inputs):
        names = tqdm(arguments.inputs, "counting rows", leave=False)
        total = sum(1 for name in names for _ in input_rows(name, *reading))
        workers = workers and min(workers, -(-total // PART_ROWS) or 1)
    threads = (arguments.threads or os.cpu_count()) if workers == 1 and not on_ray else 1
    how = (arguments.batch_size, output.suffix)
    options = (arguments.model, arguments.onnx, threads, arguments.device)
    rows = chain.from_iterable(input_rows(name, *reading) for name in arguments.inputs)

    def unfinished():
        nonlocal count
        for index, part in enumerate(cut(rows)):
            count, rows_digest = index + 1, digest(part)
            if parts.is_finished(index, rows_digest):
                progress.initial += len(part)  # not of this run's speed
                progress.n += len(part)
                progress.last_print_n += len(part)
                progress.refresh()
            else:
                yield (parts.path(index), len(part), rows_digest), (*split_columns(part, output.suffix), *how)

    if on_ray:
        from tsn.scoring.cluster import run_tasks
    else:
        from tsn.scoring.workers import run_tasks
    done = run_tasks(unfinished(), load, score_part, options, workers)
    with tqdm(total=total, desc="scoring", unit=" texts", smoothing=0.02) as progress:
        for (path, scored, rows_digest), (content, state) in done:
            write_part(path, content, rows_digest, state)
            progress.update(scored)
    for state in parts.summaries(count):
        summary.add(Summary(state))
    if arguments.report:
        shown = parts.examples(count, kept_name(arguments.text_column))
        page = report_page(summary, shown, ", ".join(Path(name).name for name in arguments.inputs))
        write_file(Path(arguments.report), page.encode("utf-8", "backslashreplace"))
    parts.join(count)
    return summary


def fingerprint(model, onnx_file):
    """What tells this model from others: the SHA-256 of its files, or its id on the Hub."""
    folder, found = Path(model), [onnx_file]
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    for path in (*(folder / name for name in names), *sorted(folder.glob("onnx/*.onnx"))):
        if path.exists():
            found.append(f"{path.name} {sha256(path)}")
    return found if folder.is_dir() else [onnx_file, str(model)]
