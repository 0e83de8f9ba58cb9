"""Exports a checkpoint, quantizes it to int8 and measures the loss: the work of `quantize.py`.

What differs from engine to engine is in `export.OnnxBackend` and `with_openvino.OpenVinoBackend`.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from matplotlib.figure import Figure
from tqdm import tqdm
from transformers import AutoTokenizer

from chunking_tsn import encode_chunks, model_inputs, token_limit
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tsn.data.annotated import read_rows
from tsn.evaluation.run import evaluate_rows, read_labelled_rows, run_pipeline, weights_sha256
from tsn.heads import MAIN_METRICS, OUTPUTS
from tsn.hub.folder import write_hub_folder
from tsn.paths import sha256
from tsn.quantization.export import OnnxBackend, auto_preset, processor
from tsn.tables import markdown_table

SAMPLE_CHUNKS = 64  # to measure a layer's error on
CALIBRATION_CHUNKS = 300
SHAPES = ((16, 128), (1, 64))  # (batch, tokens) to measure latency at; fewer tokens if the model takes fewer


class GateFailed(Exception):
    """The quantized model is less accurate than allowed."""


def sample_chunks(texts, tokenizer, config, count):
    """Model inputs of about `count` chunks spread evenly over the texts, dicts of `(tokens,)` lists."""
    texts = texts[:: max(len(texts) // count, 1)][:count]
    *_, encodings = encode_chunks(texts, tokenizer, config.chunk_words, 0, token_limit(tokenizer, config))
    return [model_inputs(encoding) for encoding in encodings[:count]]


def layer_errors(backend, chunks):
    """How much the output changes when a single layer is quantized.

    Returns:
        dict: for each of the backend's layers the Kullback-Leibler divergence, in nats, of the heads' output from that
        in fp32: the mean over tokens (for the sentiment, over chunks), summed over the heads; largest first.
    """
    expected = _log_probabilities(backend.load(backend.FP32), chunks)
    errors = {}
    for layer in tqdm(backend.layers(), desc="error of each layer", unit="layer"):
        backend.quantize_only(layer)
        quantized = _log_probabilities(backend.load(backend.INT8), chunks)
        errors[layer] = sum(float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(expected, quantized))
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def _log_probabilities(model, chunks):
    """For each head `(tokens or chunks, labels)` log-probabilities."""
    rows = [model(**{name: np.array([chunk[name]]) for name in model.input_names}) for chunk in chunks]
    logits = (torch.cat([row[name].flatten(0, -2) for row in rows]) for name in OUTPUTS)  # (tokens or chunks, labels)
    return [torch.log_softmax(values.double(), -1) for values in logits]


def latencies(backend, shapes, repeats=15):
    """Median milliseconds of a run of the fp32 and the int8 model at each shape, in turn: `{name: {"16x128": ms}}`."""
    models = {name: backend.load(name) for name in (backend.FP32, backend.INT8)}
    out = {name: {} for name in models}
    for shape in shapes:
        times = {name: [] for name in models}
        for _ in range(repeats + 1):
            for name, model in models.items():
                started = time.perf_counter()
                model(np.ones(shape, dtype=np.int64))
                times[name].append(1000 * (time.perf_counter() - started))
        for name in models:
            out[name]["x".join(map(str, shape))] = round(statistics.median(times[name][1:]), 2)
    return out


def main_metrics(groups):
    """The main metric, over all rows, of each head that has labels in the data."""
    return {head: groups["all"][name] for head, name in MAIN_METRICS.items() if name in groups["all"]}


def drops(fp32, int8):
    """By how much each head's main metric is lower in int8."""
    fp32, int8 = main_metrics(fp32), main_metrics(int8)
    return {head: fp32[head] - int8[head] for head in fp32}


def measure(model, tokenizer, rows):
    """`evaluate_rows` of a model through the pipeline."""
    pipe = TSNPipeline(model=model, tokenizer=tokenizer, device="cpu")
    return evaluate_rows(run_pipeline(pipe, rows), rows)


def find_model(backend, measure, max_drop, order, shapes):
    """Quantizes, each time with one more layer of `order` in fp32, until no head loses more than `max_drop`.

    Args:
        backend: Its `INT8` is written.
        measure: Function from one of the backend's models to its results; None: the first model is taken.
        max_drop: Largest allowed drop of a head's main metric.
        order: Names of layers.
        shapes: `(batch, tokens)` to measure latency at.

    Returns:
        list: a dict for each model that was tried; the last one is the model that is there.

    Raises:
        GateFailed: a head loses more than that in every model; the second argument is a table of them all.
    """
    reference = measure(backend.load(backend.FP32)) if measure else None
    trials = []
    for count in range(len(order) + 1):
        backend.quantize(order[:count])
        times = latencies(backend, shapes)
        trial = {"fp32_layers": order[:count], "bytes": _size(backend, backend.INT8)}
        trial |= {"latency_ms": times[backend.INT8], "fp32_latency_ms": times[backend.FP32]}
        trials.append(trial)
        if measure is None:
            return trials
        groups = measure(backend.load(backend.INT8))
        trial.update(fp32_results=reference, results=groups, drops=drops(reference, groups))
        trial["passes"] = all(drop <= max_drop for drop in trial["drops"].values())
        if trial["passes"]:
            return trials
    raise GateFailed(f"a head loses more than {max_drop}", trade_off_table(trials, _size(backend, backend.FP32)))


def _size(backend, name):
    return sum(path.stat().st_size for path in backend.files(name))


def trade_off_table(trials, fp32_bytes):
    """A Markdown table with a row for each model that was tried."""
    heads = list(trials[0].get("drops", {}))
    shapes = list(trials[0]["latency_ms"])
    lines = [["layers in fp32", "MB", *(f"ms at {shape}" for shape in shapes), *(MAIN_METRICS[h] for h in heads)]]
    first = trials[0]
    full = main_metrics(first["fp32_results"]) if heads else {}
    rows = [("all", fp32_bytes, first["fp32_latency_ms"], full)]
    for trial in trials:
        measured = main_metrics(trial["results"]) if heads else {}
        rows.append((str(len(trial["fp32_layers"])), trial["bytes"], trial["latency_ms"], measured))
    for name, size, times, metrics in rows:
        lines.append([name, f"{size / 1e6:.1f}", *(f"{times[s]:.1f}" for s in shapes)])
        lines[-1] += [f"{metrics[head]:.4f}" for head in heads]
    return markdown_table(lines, left=0)


def plot_trade_off(trials, fp32_bytes, max_drop, path):
    """Size, latency and each head's loss against the number of layers left in fp32, as a PNG."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    size, speed, loss = figure.subplots(1, 3)
    kept = [len(trial["fp32_layers"]) for trial in trials]
    size.plot(kept, [trial["bytes"] / 1e6 for trial in trials], "o-", label="int8")
    size.axhline(fp32_bytes / 1e6, color="grey", linestyle="--", label="fp32")
    size.set(ylabel="MB", ylim=(0, None))
    for shape in trials[0]["latency_ms"]:
        speed.plot(kept, [t["fp32_latency_ms"][shape] / t["latency_ms"][shape] for t in trials], "o-", label=shape)
    speed.set(ylabel="times as fast as fp32", ylim=(0, None))
    for head in trials[0]["drops"]:
        loss.plot(kept, [100 * trial["drops"][head] for trial in trials], "o-", label=head)
    loss.axhline(100 * max_drop, color="grey", linestyle="--", label="allowed")
    loss.set(ylabel="points lost")
    for axes in (size, speed, loss):
        axes.set_xlabel("layers left in fp32")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    figure.savefig(path, dpi=120)


def quantize(arguments):
    """Runs the command. Everything is written to a folder inside the output folder and moved into place at the end.

    Returns:
        str: A Markdown table of the models that were tried.
    """
    # Drawn from PyTorch's fused attention, a graph works the constant scale of the scores out again in every run.
    model = TSNModel.from_pretrained(arguments.checkpoint, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
    rows = read_labelled_rows(arguments.eval_file, model.config, "validation") if arguments.eval_file else []
    chunks = _calibration_chunks(arguments, tokenizer, model.config) if arguments.backend == "openvino" else []
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".quantize-") as stage:
        folder = Path(stage) / arguments.backend
        folder.mkdir()
        backend = _backend(model, folder, chunks, arguments)
        report = _write_model(backend, tokenizer, rows, arguments)
        table = _write_reports(report, folder)
        if not _same_folder(arguments.checkpoint, output):
            write_hub_folder(model, tokenizer, stage)
        _move(Path(stage), output)
    return table


def _calibration_chunks(arguments, tokenizer, config):
    files = [arguments.calibration_file] if arguments.calibration_file else arguments.eval_file
    texts = [row["text"] for file in files for row in read_rows(file, config, "validation")]
    chunks = sample_chunks(texts, tokenizer, config, CALIBRATION_CHUNKS)
    if not chunks:
        raise ValueError(f"no text with words in {', '.join(files)}")
    return chunks


def _backend(model, folder, chunks, arguments):
    if arguments.backend == "openvino":
        from tsn.quantization.with_openvino import OpenVinoBackend  # here, as it takes seconds to import

        return OpenVinoBackend(model, folder, chunks)
    return OnnxBackend(model, folder, auto_preset() if arguments.preset == "auto" else arguments.preset)


def _write_model(backend, tokenizer, rows, arguments):
    """Writes the int8 model; returns the report on it and on that in fp32."""
    errors = {}
    if arguments.mixed_precision == "auto":
        chunks = sample_chunks([row["text"] for row in rows], tokenizer, backend.config, SAMPLE_CHUNKS)
        errors = layer_errors(backend, chunks)
    longest = token_limit(tokenizer, backend.config) or max(SHAPES)[1]
    shapes = [(batch, min(length, longest)) for batch, length in SHAPES]
    judge = (lambda model: measure(model, tokenizer, rows)) if rows else None
    trials = find_model(backend, judge, arguments.max_drop, list(errors), shapes)
    about, paths = backend.about(), [path for name in (backend.FP32, backend.INT8) for path in backend.files(name)]
    versions = {**about.pop("versions"), "torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "weights_sha256": weights_sha256(arguments.checkpoint),
        **about,
        "processor": processor(),
        "versions": versions,
        "export_difference": backend.export_difference,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths},
        "fp32_bytes": _size(backend, backend.FP32),
        "eval_files": [Path(file).name for file in arguments.eval_file or []],
        "max_drop": arguments.max_drop if rows else None,
        "layer_errors": errors,
        "trials": trials,
    }


def _write_reports(report, folder):
    """Writes the report as JSON, Markdown and, if several models were tried, a plot; returns the Markdown."""
    trials, fp32_bytes = report["trials"], report["fp32_bytes"]
    table = trade_off_table(trials, fp32_bytes)
    (folder / "quantization_report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "quantization_report.md").write_text(table, encoding="utf-8")
    if len(trials) > 1:
        plot_trade_off(trials, fp32_bytes, report["max_drop"], folder / "quantization_report.png")
    return table


def _same_folder(checkpoint, output):
    return Path(checkpoint).is_dir() and Path(checkpoint).resolve() == output.resolve()


def _move(stage, output):
    """Moves every file into place atomically, replacing what is there."""
    for file in sorted(path for path in stage.rglob("*") if path.is_file()):
        target = output / file.relative_to(stage)
        target.parent.mkdir(exist_ok=True)
        os.replace(file, target)
