"""Evaluates a checkpoint on annotated data, text by text through the public pipeline: what `eval.py` does."""

import hashlib
import json
import platform
from pathlib import Path

import torch
import transformers
from tqdm import tqdm
from transformers import AutoTokenizer
from transformers.utils import cached_file

from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tsn.data.annotated import read_rows
from tsn.evaluation.calibration import reliability
from tsn.evaluation.checks import check_device, check_writable
from tsn.evaluation.gold_spans import read_gold_spans
from tsn.evaluation.plots import plot_confusion, plot_reliability
from tsn.evaluation.results import confusion, evaluate_rows, judge
from tsn.paths import sha256
from tsn.tables import results_table

RECORD, TABLE = "eval_results.json", "eval_results.md"
LABELS = ("topics", "entities", "sentiment", "targets")
WEIGHTS = "model.safetensors"
GRAPHS = ("onnx_file", "openvino_file")
PICTURES = {"sentiment": "confusion_sentiment.png", "entities": "confusion_entities.png"}
RELIABILITY = "reliability.png"


def read_labelled_rows(paths, config, split):
    """All rows of the files.

    Raises:
        ValueError: none of them has a label; or as `tsn.data.annotated.read_rows`.
    """
    rows = [row for path in paths for row in read_rows(path, config, split)]
    if not any(row[name] is not None for row in rows for name in LABELS):
        raise ValueError(f"nothing is annotated in {', '.join(paths)}: {len(rows)} rows, no label")
    return rows


def run_pipeline(pipe, rows, batch_size=32):
    """The pipeline's result for each checked row, see `tsn.data.annotated.read_rows`."""
    texts = (row["text"] for row in rows)
    return list(tqdm(pipe(texts, batch_size=batch_size), total=len(rows), desc="evaluating", unit="text", smoothing=0))


def evaluate(arguments):
    """The command: measures, and writes the record, its table and, with `--plots`, the pictures.

    Returns:
        str: the table.

    Raises:
        OSError, ValueError: the checkpoint or the data cannot be read, the results cannot be written, or the device
            cannot be used. All of it is found out before the first text is read.
    """
    folder = Path(arguments.output_dir)
    check_writable(folder, [RECORD, TABLE])
    pictures = None if arguments.plots is None else Path(arguments.plots or folder)
    if pictures:
        check_writable(pictures, [*PICTURES.values(), RELIABILITY])
    if arguments.device is not None:
        check_device(arguments.device)
    graph = {name: getattr(arguments, name) for name in GRAPHS if getattr(arguments, name)}
    model = TSNModel.from_pretrained(arguments.checkpoint, **graph)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
    about = {
        "checkpoint": Path(arguments.checkpoint).name or Path(arguments.checkpoint).resolve().name,
        **graph,
        "weights_sha256": weights_sha256(arguments.checkpoint, **graph),
        "data": [Path(path).name for path in arguments.data],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    rows = read_labelled_rows(arguments.data, model.config, "test")
    pipe = TSNPipeline(model=model.eval(), tokenizer=tokenizer, device=arguments.device)
    try:
        answers = run_pipeline(pipe, rows, arguments.batch_size)
        readings = read_gold_spans(pipe, rows, arguments.batch_size)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise ValueError(f"out of memory; a --batch_size below {arguments.batch_size} needs less") from error
    record = {**about, **measure(answers, rows, readings, model.config)}
    table = results_table(record["results"])
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (folder / TABLE).write_text(table, encoding="utf-8")
    if pictures:
        draw(record, pictures)
    return table


def measure(answers, rows, readings, config):
    """The figures of a record: results by group, and of all rows the reliability and the confusion of the answers."""
    results = evaluate_rows(answers, rows, readings)
    return {
        "results": results,
        "temperatures": config.temperatures,
        "reliability": {
            name: {"ece": results["all"][f"{name}_ece"], "bins": reliability(*judged)}
            for name, judged in judge(answers, rows).items()
            if judged[0]
        },
        "confusion": confusion(answers, rows, config),
    }


def draw(record, folder):
    """The pictures of an evaluation's record."""
    titles = {"sentiment": "Sentiment", "entities": "Entities, by exact borders"}
    for name, matrix in record["confusion"].items():
        if any(map(any, matrix["counts"])):
            plot_confusion(matrix["counts"], matrix["labels"], folder / PICTURES[name], titles[name])
    if record["reliability"]:
        plot_reliability(record["reliability"], folder / RELIABILITY)


def weights_sha256(checkpoint, onnx_file=None, openvino_file=None):
    """SHA-256, in hexadecimal, of the checkpoint's `model.safetensors`, or of the weights of a file of its `onnx` or
    `openvino` folder.

    Weights that are saved in several shards are hashed one behind the other, in the order of their names, as
    `cat model-*.safetensors | sha256sum` does.

    Raises:
        OSError: a file is missing.
        ValueError: the index of the shards is damaged.
    """
    if onnx_file is not None:
        return sha256(cached_file(checkpoint, onnx_file, subfolder="onnx"))
    if openvino_file is not None:
        return sha256(cached_file(checkpoint, f"{openvino_file.removesuffix('.xml')}.bin", subfolder="openvino"))
    try:
        return sha256(cached_file(checkpoint, WEIGHTS))
    except OSError as missing:
        try:
            index = cached_file(checkpoint, f"{WEIGHTS}.index.json")
        except OSError:
            raise missing from None
    digest = hashlib.sha256()
    for name in _shard_names(index):
        with open(cached_file(checkpoint, name), "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _shard_names(index):
    try:
        names = sorted(set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of shards ({type(error).__name__}: {error})") from error
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name!r}, which is not a safetensors file beside it")
    return names
