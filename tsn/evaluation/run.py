"""Evaluates a checkpoint on annotated data, text by text through the public pipeline: what `eval.py` does."""

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
from tsn.evaluation.calibration import expected_calibration_error, reliability
from tsn.evaluation.metric import compute_metrics_from_rows
from tsn.evaluation.plots import plot_confusion, plot_reliability
from tsn.heads import HEADS
from tsn.paths import sha256
from tsn.tables import results_table

NO_ENTITY = "none"


def read_labelled_rows(paths, config, split):
    """All rows of the files.

    Raises:
        ValueError: none of them has a label; or as `tsn.data.annotated.read_rows`.
    """
    rows = [row for path in paths for row in read_rows(path, config, split)]
    if not any(row[name] is not None for row in rows for name in ("topics", "entities", "sentiment")):
        raise ValueError(f"nothing is annotated in {', '.join(paths)}: {len(rows)} rows, no label")
    return rows


def run_pipeline(pipe, rows, batch_size=32):
    """The pipeline's result for each checked row, see `tsn.data.annotated.read_rows`."""
    texts = (row["text"] for row in rows)
    return list(tqdm(pipe(texts, batch_size=batch_size), total=len(rows), desc="evaluating", unit="text", smoothing=0))


def evaluate_rows(results, rows):
    """Measures the pipeline's results, all together and by group.

    Args:
        results: Of `run_pipeline`.
        rows: The checked rows.

    Returns:
        dict: `"all"`, each source, and `"source/language"` where a source has several languages, to their metrics
        (`metric.compute_metrics_from_rows`), the expected calibration error of each head, `<head>_ece`, and number of
        `rows`.
    """
    predictions = [as_prediction(result) for result in results]
    references = [as_reference(row) for row in rows]
    members = {"all": range(len(rows))}
    languages = {}
    for row in rows:
        languages.setdefault(row["source"], set()).add(row["language"])
    for i, row in enumerate(rows):
        names = [row["source"]]
        if len(languages[row["source"]]) > 1:
            names.append(f"{row['source']}/{row['language']}")
        for name in names:
            members.setdefault(name, []).append(i)
    groups = {}
    for name in ("all", *sorted(name for name in members if name != "all")):
        predicted, annotated = ([side[i] for i in members[name]] for side in (predictions, references))
        judged = judge([results[i] for i in members[name]], annotated)
        errors = {f"{task}_ece": expected_calibration_error(*judged[task]) for task in HEADS if judged[task][0]}
        groups[name] = {
            "rows": len(members[name]),
            **compute_metrics_from_rows(predicted, annotated),
            **errors,
        }
    return groups


def judge(results, references):
    """For each head the scores of the pipeline's answers, and whether each is right, where the reference tells."""
    judged = {task: ([], []) for task in HEADS}
    for result, reference in zip(results, references):
        answers = []
        if reference["topics"] is not None:
            gold = {(span["start"], span["end"]) for span in reference["topics"]}
            answers += [("topic", t["score"], (t["start"], t["end"]) in gold) for t in result["topics"]]
        if reference["entities"] is not None:
            gold = {(span["start"], span["end"], span["label"]) for span in reference["entities"]}
            answers += [
                ("ner", e["score"], (e["start"], e["end"], e["entity_group"]) in gold) for e in result["entities"]
            ]
        if reference["sentiment"] is not None and result["sentiment"]["label"] is not None:
            sentiment = result["sentiment"]
            answers.append(("sentiment", sentiment["score"], sentiment["label"] == reference["sentiment"]))
        for task, score, right in answers:
            judged[task][0].append(score)
            judged[task][1].append(right)
    return judged


def confusion(results, references, config):
    """Counts of what was annotated as what was predicted.

    Returns:
        dict: `sentiment` and `entities` to `{"labels", "counts"}`, counts as `(true, predicted)` lists. An entity
        counts as predicted where a span of the same borders is; its partner is `"none"` otherwise.
    """
    found = {}
    for name, labels in (
        ("sentiment", config.sentiment_labels),
        ("entities", [*config.entity_scheme().types, NO_ENTITY]),
    ):
        found[name] = {"labels": list(labels), "counts": [[0] * len(labels) for _ in labels]}

    def count(name, gold, predicted):
        place = found[name]["labels"].index
        found[name]["counts"][place(gold)][place(predicted)] += 1

    for result, reference in zip(results, references):
        if reference["sentiment"] is not None and result["sentiment"]["label"] is not None:
            count("sentiment", reference["sentiment"], result["sentiment"]["label"])
        if reference["entities"] is not None:
            gold = {(e["start"], e["end"]): e["label"] for e in reference["entities"]}
            predicted = {(e["start"], e["end"]): e["entity_group"] for e in result["entities"]}
            for span in gold.keys() | predicted.keys():
                count("entities", gold.get(span, NO_ENTITY), predicted.get(span, NO_ENTITY))
    return found


def as_prediction(result):
    """The pipeline's result as the metric takes it."""
    entities = [{"start": e["start"], "end": e["end"], "label": e["entity_group"]} for e in result["entities"]]
    return {"topics": result["topics"], "entities": entities, "sentiment": result["sentiment"]["label"] or ""}


def as_reference(row):
    """An annotated row as the metric takes it."""
    topics = row["topics"]
    if topics is not None:
        topics = [{**topic, "word": row["text"][topic["start"] : topic["end"]]} for topic in topics]
    return {"topics": topics, "entities": row["entities"], "sentiment": row["sentiment"]}


def draw(record, folder):
    """The pictures of an evaluation's record."""
    titles = {"sentiment": "Sentiment", "entities": "Entities, by exact borders"}
    for name, matrix in record["confusion"].items():
        if any(map(any, matrix["counts"])):
            plot_confusion(matrix["counts"], matrix["labels"], folder / f"confusion_{name}.png", titles[name])
    if record["reliability"]:
        plot_reliability(record["reliability"], folder / "reliability.png")


def weights_sha256(checkpoint, onnx_file=None):
    """SHA-256, in hexadecimal, of the checkpoint's `model.safetensors` or of a file of its `onnx` folder."""
    name = ("model.safetensors", "") if onnx_file is None else (onnx_file, "onnx")
    return sha256(cached_file(checkpoint, name[0], subfolder=name[1]))


def evaluate(arguments):
    """The command: measures, and writes the record, its table and, with `--plots`, the pictures.

    Returns:
        str: the table.

    Raises:
        OSError, ValueError: the checkpoint or the data cannot be read.
    """
    onnx = {"onnx_file": arguments.onnx_file} if arguments.onnx_file else {}
    model = TSNModel.from_pretrained(arguments.checkpoint, **onnx)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
    rows = read_labelled_rows(arguments.data, model.config, "test")
    pipe = TSNPipeline(model=model.eval(), tokenizer=tokenizer, device=arguments.device)
    answers, references = run_pipeline(pipe, rows, arguments.batch_size), [as_reference(row) for row in rows]
    results = evaluate_rows(answers, rows)
    bins = {
        task: {"ece": results["all"][f"{task}_ece"], "bins": reliability(*judged)}
        for task, judged in judge(answers, references).items()
        if judged[0]
    }
    record = {
        "checkpoint": Path(arguments.checkpoint).name or Path(arguments.checkpoint).resolve().name,
        **onnx,
        "weights_sha256": weights_sha256(arguments.checkpoint, **onnx),
        "data": [Path(path).name for path in arguments.data],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "results": results,
        "temperatures": model.config.temperatures,
        "reliability": bins,
        "confusion": confusion(answers, references, model.config),
    }
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval_results.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    table = results_table(results)
    (folder / "eval_results.md").write_text(table, encoding="utf-8")
    if arguments.plots is not None:
        pictures = Path(arguments.plots or folder)
        pictures.mkdir(parents=True, exist_ok=True)
        draw(record, pictures)
    return table
