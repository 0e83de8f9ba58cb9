"""What each task loses by sharing one model with two others, and what an adapter loses: trains all of them.

    python -m bench.multitask --backbone out/v1/checkpoint-1900 --data ../shared/data --steps 120

All start from the same model or encoder. The joint model sees `--steps` batches of the mixture that `--config`
describes. Each single-task model has the same options and schedule, and sees only the rows of its task, as many times
as the joint model does: the three together cost as much to train as the joint one, and three times as much to use. The
adapter (`--lora --load_in_8bit`) sees what the joint model sees. All are measured on every third row of the validation
data, chunk by chunk, and written to `results/multitask.json` and `.md`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from transformers import PretrainedConfig

from bench.machine import describe_machine, versions
from tsn.data.features import row_weights
from tsn.heads import HEADS
from tsn.hub.figures import multitask_table
from tsn.paths import ROOT

COLUMNS = dict(zip(HEADS, ("topics", "entities", "sentiment")))
ALSO = {"ner": {"entity_types"}, "sentiment": {"targets"}}  # further columns that teach a task
EVERYTHING = ["start", "joint", "adapter", *HEADS]
EVERY = 3  # of the validation rows one is measured: all of them would take longer than the training
OPTIONS = {
    "start": ["--learning_rate", "0", "--head_learning_rate", "0"],
    "joint": [],
    "adapter": ["--lora", "--load_in_8bit", "--learning_rate", "3e-3"],
}


def some_rows(path, out):
    """Writes every third row of a Parquet file."""
    table = pq.read_table(path)
    pq.write_table(table.take(np.arange(0, len(table), EVERY)), out)
    return out


def task_rows(path, task, out):
    """Writes the rows of a Parquet file that are labelled for a task, without the labels of the others."""
    table = pq.read_table(path)
    table = table.filter(table[COLUMNS[task]].is_valid())
    labels = {*COLUMNS.values(), *(column for columns in ALSO.values() for column in columns)}
    for column in (labels - {COLUMNS[task]} - ALSO.get(task, set())) & set(table.column_names):
        i = table.schema.get_field_index(column)
        table = table.set_column(i, table.schema.field(i), pa.nulls(len(table), table.schema.field(i).type))
    pq.write_table(table, out)
    return out


def words_seen(path, weights):
    """Words of a Parquet file's texts, each as often as an epoch sees it: the cost of a training on them."""
    rows = pq.read_table(path, columns=["source", "language", "text"]).to_pylist()
    times = row_weights([f"{row['source']}/{row['language']}" for row in rows], weights)
    return float(sum(n * len(row["text"].split()) for n, row in zip(times, rows)))


def sampling_weights(config, path):
    """The sampling weights of a configuration, for the sources that a file has."""
    sources = set(pq.read_table(path, columns=["source"])["source"].to_pylist())
    pairs = (pair.rpartition("=") for pair in config["sampling_weights"])
    return {name: float(weight) for name, _, weight in pairs if name.partition("/")[0] in sources}


def train(name, steps, files, weights, arguments, extra=()):
    """Trains with `train.py` and returns the metrics after the last step, and the seconds that training took."""
    with tempfile.TemporaryDirectory() as out:
        options = [write_options(arguments, Path(out) / "options.yaml"), "--backbone", arguments.backbone]
        options += ["--output_dir", out, *extra]
        options += ["--train_file", files[0], "--validation_file", files[1], "--max_steps", steps]
        options += ["--eval_steps", steps, "--save_steps", steps, "--sampling_weights"]
        options += [f"{source}={weight}" for source, weight in weights.items()]
        print(f"{name}: {steps} steps", file=sys.stderr)
        start = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / "train.py"), *map(str, options)], check=True)
        seconds = time.perf_counter() - start
        log = json.loads((Path(out) / "trainer_state.json").read_text())["log_history"]
    metrics = next(entry for entry in reversed(log) if "eval_score" in entry)
    figures = {key.removeprefix("eval_"): value for key, value in metrics.items()}
    return {"name": name, "steps": int(steps), "seconds": round(seconds, 1), "metrics": figures}


def write_options(arguments, path):
    """Writes the configuration, without what a TSN model brings itself."""
    config = yaml.safe_load(Path(arguments.config).read_text(encoding="utf-8"))
    if PretrainedConfig.get_config_dict(arguments.backbone)[0].get("model_type") == "tsn":
        config.pop("pooling")
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.multitask", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=str(ROOT / "configs" / "tsn-e5.yaml"), help="options of train.py")
    parser.add_argument("--backbone", required=True, help="encoder or TSN model to start from")
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data"), help="train and validation.parquet")
    parser.add_argument("--steps", type=int, default=120, help="steps of the joint model (default: 120)")
    parser.add_argument("--only", nargs="+", default=EVERYTHING, help="train only these; results of the others stay")
    parser.add_argument("--output_dir", default=str(ROOT / "results"), help="where multitask.json goes")
    arguments = parser.parse_args(argv)
    data, out = Path(arguments.data), Path(arguments.output_dir)
    config = yaml.safe_load(Path(arguments.config).read_text(encoding="utf-8"))
    files = [data / "train.parquet", data / "validation.parquet"]
    weights = sampling_weights(config, files[0])
    all_words = words_seen(files[0], weights)
    record = {
        "backbone": Path(arguments.backbone).name,
        "machine": describe_machine(),
        "versions": versions(),
        "runs": [],
    }
    path = out / "multitask.json"
    if path.exists() and set(arguments.only) != set(EVERYTHING):
        record["runs"] = [r for r in json.loads(path.read_text())["runs"] if r["name"] not in arguments.only]
    with tempfile.TemporaryDirectory() as folder:
        files[1] = some_rows(files[1], Path(folder) / "validation.parquet")
        for name in arguments.only:
            if name not in HEADS:
                steps = 1 if name == "start" else arguments.steps
                run = train(name, steps, files, weights, arguments, OPTIONS[name])
            else:
                own = [task_rows(file, name, Path(folder) / f"{name}-{file.name}") for file in files]
                mixture = sampling_weights(config, own[0])
                steps = int(np.ceil(arguments.steps * words_seen(own[0], mixture) / all_words))
                run = train(name, steps, own, mixture, arguments)
            record["runs"].append(run)
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = multitask_table(record)
    (out / "multitask.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
