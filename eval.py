"""Evaluates a TSN checkpoint on annotated data, text by text through the public pipeline.

    python eval.py CHECKPOINT DATA [DATA ...]
    python eval.py . ../shared/data/test.parquet

Prints a table with a row for each source and language, and writes it as `eval_results.md` beside `eval_results.json`,
which holds every figure, the weights' SHA-256 and the versions that measured it.
"""

import argparse
import hashlib
import json
import platform
import sys
from pathlib import Path

import torch
import transformers
from tqdm import tqdm
from transformers import AutoTokenizer
from transformers.utils import cached_file

from data_tsn import read_rows
from metric_tsn import compute_metrics_from_rows
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from table_tsn import markdown_table as aligned

COLUMNS = {
    "topic_f1": "Topic F1",
    "topic_f1@5": "F1@5",
    "topic_f1@10": "F1@10",
    "topic_f1@M": "F1@M",
    "ner_f1": "NER F1",
    "sentiment_accuracy": "Sent. acc.",
    "sentiment_macro_f1": "Sent. macro F1",
    "sentiment_macro_recall": "Sent. macro R",
}


def read_labelled_rows(paths, config, split):
    """All rows of the files.

    Raises:
        ValueError: none of them has a label; or as `data_tsn.read_rows`.
    """
    rows = [row for path in paths for row in read_rows(path, config, split)]
    if not any(row[name] is not None for row in rows for name in ("topics", "entities", "sentiment")):
        raise ValueError(f"nothing is annotated in {', '.join(paths)}: {len(rows)} rows, no label")
    return rows


def evaluate_rows(pipe, rows, batch_size=32):
    """Runs the pipeline over checked rows and measures each group.

    Args:
        pipe: A `TSNPipeline`.
        rows: List of rows, see `data_tsn.read_rows`.
        batch_size: Chunks of a forward pass.

    Returns:
        dict: `"all"`, each source, and `"source/language"` where a source has several languages, to their metrics and
        number of `rows`.
    """
    texts = (row["text"] for row in rows)
    results = tqdm(pipe(texts, batch_size=batch_size), total=len(rows), desc="evaluating", unit="text", smoothing=0)
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
    return {
        name: {
            "rows": len(members[name]),
            **compute_metrics_from_rows(
                [predictions[i] for i in members[name]], [references[i] for i in members[name]]
            ),
        }
        for name in ("all", *sorted(name for name in members if name != "all"))
    }


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


def markdown_table(results):
    """The main figures of `evaluate_rows`, a row a group, aligned for reading as plain text."""
    shown = {key: title for key, title in COLUMNS.items() if any(key in group for group in results.values())}
    lines = [["", "Texts", *shown.values()]]
    for name, group in results.items():
        lines.append([name, str(group["rows"]), *(f"{group[k]:.3f}" if k in group else "" for k in shown)])
    return aligned(lines)


def weights_sha256(checkpoint, onnx_file=None):
    """SHA-256, in hexadecimal, of the checkpoint's `model.safetensors` or of a file of its `onnx` folder."""
    name = ("model.safetensors", "") if onnx_file is None else (onnx_file, "onnx")
    weights = Path(cached_file(checkpoint, name[0], subfolder=name[1]))
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of a TSN model")
    parser.add_argument("data", nargs="+", help="annotated .parquet, .jsonl or .csv files, or Hub data set ids")
    parser.add_argument("--output_dir", default=".", help="where eval_results.json and .md go (default: here)")
    parser.add_argument("--batch_size", type=int, default=32, help="chunks of a forward pass (default: 32)")
    parser.add_argument("--onnx_file", help="a file of the checkpoint's onnx folder to evaluate instead")
    parser.add_argument("--device", default=None, help="such as cpu or cuda:0 (default: what there is)")
    arguments = parser.parse_args(argv)
    try:
        onnx = {"onnx_file": arguments.onnx_file} if arguments.onnx_file else {}
        model = TSNModel.from_pretrained(arguments.checkpoint, **onnx)
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
        rows = read_labelled_rows(arguments.data, model.config, "test")
    except (OSError, ValueError) as error:
        sys.exit(f"eval.py: {error}")
    pipe = TSNPipeline(model=model.eval(), tokenizer=tokenizer, device=arguments.device)
    results = evaluate_rows(pipe, rows, arguments.batch_size)
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
    }
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval_results.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    table = markdown_table(results)
    (folder / "eval_results.md").write_text(table, encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    main()
