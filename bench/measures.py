"""What is timed: throughput, cost by length of the document, int8 against fp32. All in seconds, every timing kept."""

import time
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.systems import BATCH_SIZE, ONNX_FILES, count_tokens, pieces
from bench.texts import KINDS, count_words, documents, join_articles, sample
from onnx_tsn import open_session

SHAPES = ((16, 128), (1, 64))  # (batch, tokens) of int8 against fp32


def take_turns(works, repeats, title):
    """Times functions in turn, all of them once before any of them again, so that a slow spell meets them alike.

    Args:
        works: Functions without arguments.
        repeats: Times that each is run.
        title: What the progress bar says.

    Returns:
        For each function, the list of its `repeats` seconds.
    """
    seconds = [[] for _ in works]
    with tqdm(total=repeats * len(works), desc=title, unit="timing", smoothing=0) as bar:
        for _ in range(repeats):
            for found, work in zip(seconds, works):
                found.append(_time(work))
                bar.update()
    return seconds


def _time(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def throughput(pipes, limits, three, script, texts, sizes, repeats):
    """The limit, TSN in batches and one text at a time, three pipelines and the usual script.

    Args:
        pipes, limits: Of each engine, its `TSNPipeline` and its bare model.
        three, script: `ThreePipelines` and `UsualScript`.
        texts: Of each kind, a list of strings.
        sizes: Of each kind, the texts in batches and, of these, those one at a time.
        repeats: Timings of each.

    Returns:
        List of dict: `system`, `engine`, `mode`, `kind`, the numbers of `texts`, `words` and `tokens`, and `seconds`.
    """
    rows, works = [], []
    for kind in tqdm(KINDS, desc="batch sizes", unit="kind"):
        many = sample(texts[kind], sizes[kind][0])
        few = many[: sizes[kind][1]]
        parts = pieces(pipes["torch"], many)
        of_many = {"kind": kind, **_counts(pipes["torch"], many)}
        of_few = {"kind": kind, **_counts(pipes["torch"], few)}

        def add(system, engine, mode, counts, work, **more):
            rows.append({"system": system, "engine": engine, "mode": mode, **counts, **more})
            works.append(work)

        others = {
            "torch": ("three pipelines", "batches", partial(three, parts)),
            "int8": ("usual script", "one by one", partial(_one_by_one, script, parts)),
        }
        for engine, pipe in pipes.items():  # what is compared runs one right after the other
            way = best_way(limits[engine], many)
            add("the limit", engine, "batches", of_many, limits[engine].prepare(many, way), **way._asdict())
            add("TSN", engine, "batches", of_many, partial(pipe, many, batch_size=BATCH_SIZE))
            if engine in others:
                system, mode, work = others[engine]
                add(system, engine, mode, of_many, work)
        for engine, pipe in pipes.items():
            add("TSN", engine, "one by one", of_few, partial(_one_by_one, pipe, few))
    for system in (*pipes.values(), three):  # the bare models have warmed up on the choice of a batch size
        system(parts[:8])
    _one_by_one(script, parts[:8])
    for row, seconds in zip(rows, take_turns(works, repeats, "throughput")):
        row["seconds"] = seconds
    return rows


def _one_by_one(system, texts):
    for text in texts:
        system(text)


def _counts(pipe, texts):
    return {"texts": len(texts), "words": count_words(texts), "tokens": count_tokens(pipe, texts)}


def best_way(limit, texts):
    """The fastest of the ways to run a bare model over these texts: all are tried once, the best four twice more."""
    works = {way: limit.prepare(texts, way) for way in limit.ways}
    limit.prepare(texts[:4], limit.ways[0])()  # the first run of all reserves memory
    seconds = {way: _time(work) for way, work in works.items()}
    best = sorted(seconds, key=seconds.get)[:4]
    for way in best * 2:
        seconds[way] = min(seconds[way], _time(works[way]))
    return min(best, key=seconds.get)


def cost_by_length(pipes, articles, lengths, words, repeats):
    """Documents of each length, one at a time through the pipeline.

    Args:
        pipes: Of each engine, its `TSNPipeline`.
        articles: Strings that the documents are joined from.
        lengths: Of each engine, words of a document.
        words: Words of all documents of a length together, or of one if that is longer.
        repeats: Timings of each.

    Returns:
        List of dict: `engine`, `length`, `documents`, `words` and `tokens` of all of them, and `seconds`.
    """
    text = join_articles(articles, max(map(max, lengths.values())))
    rows, works = [], []
    for engine, found in lengths.items():
        for length in found:
            cut = documents(text, length, max(words // length, 1))
            counts = {"documents": len(cut), "words": count_words(cut), "tokens": count_tokens(pipes[engine], cut)}
            rows.append({"engine": engine, "length": length, **counts})
            works.append(partial(_one_by_one, partial(pipes[engine], batch_size=BATCH_SIZE), cut))
    for row, seconds in zip(rows, take_turns(works, repeats, "length of the document")):
        row["seconds"] = seconds
    return rows


def int8_against_fp32(folder, threads, vocab_size, repeats, least):
    """Bare sessions without spinning on batches of random tokens.

    Args:
        folder: A checkpoint with its `onnx` folder.
        threads: Threads of each session.
        vocab_size: Token ids are drawn from all of them.
        repeats: Timings of each.
        least: Runs of a timing are as many as take about this long, in seconds.

    Returns:
        List of dict: `batch`, `tokens`, the `runs` that each timing holds, and of each engine its `seconds`.
    """
    rows, works = [], []
    rng = np.random.default_rng(0)
    sessions = [open_session(Path(folder) / "onnx" / name, threads) for name in ONNX_FILES.values()]
    for batch, tokens in SHAPES:
        ids = rng.integers(0, vocab_size, (batch, tokens))
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        runs = None
        for session in sessions:
            feed = {value.name: values[value.name] for value in session.get_inputs()}
            once = partial(session.run, None, feed)
            once()
            runs = runs or max(1, round(least / _time(once)))  # as many of both
            works.append(partial(_repeatedly, once, runs))
        rows.append({"batch": batch, "tokens": tokens, "runs": runs})
    seconds = iter(take_turns(works, repeats, "int8 against fp32"))
    for row in rows:
        row["seconds"] = dict(zip(ONNX_FILES, seconds))
    return rows


def _repeatedly(work, runs):
    for _ in range(runs):
        work()
