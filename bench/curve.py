"""Measures quality against speed, of TSN on each of its engines and of what a user would pick instead.

    python -m bench.curve CHECKPOINT
    python -m bench.curve . --half out/half --quick

CHECKPOINT is a folder of a TSN model; engines whose files are not in its `onnx/` and `openvino/` are left out. Prints
tables and writes them as `curve.md` beside `curve.json`, which holds every timing and the quality on every set, and
draws `curve.png`. About a quarter of an hour on two cores.
"""

import argparse
import json
import os
import sys
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before transformers is imported

from tqdm import tqdm
from transformers import AutoTokenizer

from bench import roofline
from bench.curve_figures import add_figures, combine, quality
from bench.curve_plot import plot
from bench.curve_texts import read_english, sample_sets
from bench.machine import describe_machine, versions
from bench.texts import count_words
from bench.worker import Worker, available_cores
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tsn.hub.curve import METRICS, REFERENCE, tables
from tsn.paths import ROOT

# `rows` of each set and head; `slices` that they are dealt into; `turns`: slices that are read on fewer cores than
# there are, and by what is only timed, which reads every so-manieth text of them (`share`), as GLiNER2's encoder is
# many times slower. `size` of the matrices, and how often they are multiplied.
FULL = {"rows": 100, "slices": 10, "turns": 5, "share": 10, "size": 2048, "repeats": 10}
QUICK = {"rows": 2, "slices": 2, "turns": 2, "share": 2, "size": 512, "repeats": 3}
ENGINES = {  # name: type of number, file that it needs, arguments of `TSNModel.from_pretrained`
    REFERENCE: ("fp32", None, {}),
    "torch bf16": ("bf16", None, {"dtype": "bfloat16"}),
    "ONNX fp32": ("fp32", "onnx/model.onnx", {"onnx_file": "model.onnx"}),
    "ONNX int8": ("int8", "onnx/model_quantized.onnx", {"onnx_file": "model_quantized.onnx"}),
    "OpenVINO fp32": ("fp32", "openvino/model.xml", {"openvino_file": "model.xml"}),
    "OpenVINO bf16": ("bf16", "openvino/model.xml", {"openvino_file": "model.xml", "dtype": "bfloat16"}),
    "OpenVINO int8": ("int8", "openvino/model_quantized.xml", {"openvino_file": "model_quantized.xml"}),
}
OTHERS = {  # name: class of `bench.others`, what it answers
    "spaCy": ("SpacyEntities", ["ner_f1"]),
    "VADER": ("VaderSentiment", ["sentiment_macro_f1"]),
    "YAKE": ("YakeTopics", ["topic_f1"]),
    "GLiNER2's encoder": ("Encoder", []),
}
BOTH = "YAKE + VADER"
PACKAGES = ("openvino", "spacy", "vaderSentiment", "yake")
WARM_UP = 64  # texts


def list_systems(folders):
    """What is measured.

    Args:
        folders: `"TSN"`, and `"TSN, half"` if there is one, to the checkpoint.

    Returns:
        `(systems, left_out)`: dicts of `name`, `model`, `precision`, the `metrics` that it has and what `Worker` takes
        as `system`; and lines on engines whose files are absent.
    """
    systems, left_out = [], []
    for model, folder in folders.items():
        for engine, (precision, file, options) in ENGINES.items():
            name = f"{model}, {engine}"
            if file and not (Path(folder) / file).exists():
                left_out.append(f"{name} (no {file})")
                continue
            system = {"folder": str(Path(folder).resolve()), "options": options}
            about = {"name": name, "model": model, "precision": precision, "metrics": list(METRICS)}
            systems.append({**about, "system": system})
    for name, (kind, metrics) in OTHERS.items():
        about = {"name": name, "model": None, "precision": None, "metrics": metrics}
        systems.append({**about, "system": {"class": kind}})
    return systems, left_out


def take_turns(systems, slices, turns, share, cores, left_out):
    """Each slice in turn is read by all systems, each in a process of its own that was started and warm before.

    Args:
        systems: Of `list_systems`; one that cannot be loaded is removed, with a line in `left_out`.
        slices: Lists of texts.
        turns, share: Systems which answer nothing read the first `turns` slices, and of these every `share`-th text.
        cores: Numbers of the cores.

    Returns:
        For each system `{"words", "seconds"}`, lists of the turns, and the answers of all slices, one after another.
    """
    with ExitStack() as stack:
        workers = [Worker(system["system"], cores) for system in systems]
        for worker in workers:
            stack.callback(worker.close)
        title = f"{len(cores)} {'core' if len(cores) == 1 else 'cores'}"
        running = []
        for system, worker in zip(tqdm(list(systems), desc=f"{title}, loading", unit="system"), workers):
            try:
                worker(slices[0][:WARM_UP])
                running.append((worker, {"words": [], "seconds": []}, []))
            except RuntimeError as error:
                if system["name"] == f"TSN, {REFERENCE}":
                    raise
                systems.remove(system)
                left_out.append(f"{system['name']} ({error})")
        for turn, texts in enumerate(tqdm(slices, desc=title, unit="turn")):
            for system, (worker, speed, answers) in zip(systems, running):
                if turn >= turns and not system["metrics"]:
                    continue
                read = texts if system["metrics"] else texts[::share]
                seconds, found = worker(read)
                speed["words"].append(count_words(read))
                speed["seconds"].append(seconds)
                answers += found
    return [(speed, answers) for _, speed, answers in running]


def measure(folders, rows, sets, plan):
    """Measures everything.

    Args:
        folders: See `list_systems`.
        rows, sets: Of `curve_texts.sample_sets`.
        plan: `FULL` or `QUICK`.

    Returns:
        dict: what `curve.json` holds.
    """
    machine = describe_machine()  # before this run is itself the load
    cores = available_cores()
    counts = [count for count in (1, 2) if count <= len(cores)]
    systems, left_out = list_systems(folders)
    if len(cores) < 2:
        left_out.append("two cores (this process has one)")
    texts = [row["text"] for row in rows]
    slices = [texts[i :: plan["slices"]] for i in range(plan["slices"])]
    limits, speeds, answers = {}, {}, {}
    for count in counts:
        limits[str(count)] = roofline.measure(plan["size"], plan["repeats"], cores[:count])
        read = slices if count == counts[-1] else slices[: plan["turns"]]
        found = take_turns(systems, read, plan["turns"], plan["share"], cores[:count], left_out)
        speeds[str(count)] = {system["name"]: speed for system, (speed, _) in zip(systems, found)}
        answers = {system["name"]: given for system, (_, given) in zip(systems, found)}
    order = [i for first in range(plan["slices"]) for i in range(first, len(rows), plan["slices"])]
    figures = []
    for system in systems:
        name, metrics = system["name"], system["metrics"]
        answers[name] = dict(zip(order, answers[name]))  # index of the row to its answer
        about = {key: system[key] for key in ("name", "model", "precision")}
        speed = {count: speeds[count][name] for count in speeds}
        figures.append({**about, "quality": quality(answers[name], rows, sets, metrics), "speed": speed})
    if {"YAKE", "VADER"} <= answers.keys():
        both = combine(*([answers[name][i] for i in range(len(rows))] for name in ("YAKE", "VADER")))
        speed = {count: _add_up(of["YAKE"], of["VADER"]) for count, of in speeds.items()}
        about = {"name": BOTH, "model": None, "precision": None}
        figures.append({**about, "quality": quality(both, rows, sets, ["topic_end_to_end_f1"]), "speed": speed})
    record = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine,
        "versions": {**versions(), **_installed()},
        "rows_per_set": plan["rows"],
        "sets": {metric: list(of_metric) for metric, of_metric in sets.items()},
        "texts": len(texts),
        "words": count_words(texts),
        "slices": plan["slices"],
        "limits": limits,
        "operations_per_word": {model: operations_per_word(folder, texts) for model, folder in folders.items()},
        "systems": figures,
        "left_out": left_out,
    }
    add_figures(record)
    return record


def _add_up(one, other):
    """The speed of two systems, one after the other."""
    return {"words": one["words"], "seconds": [a + b for a, b in zip(one["seconds"], other["seconds"])]}


def _installed():
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except ImportError:  # what needs it is left out, and says so
            continue
    return found


def operations_per_word(folder, texts):
    """Operations of the model on the texts' chunks, divided by their words between white space."""
    model = TSNModel.from_pretrained(folder).eval()
    pipe = TSNPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu")
    return roofline.operations(model, pipe.preprocess(texts).token_counts) / count_words(texts)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.curve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="folder of a TSN model")
    parser.add_argument("--half", help="folder of one of half the depth, measured beside it")
    parser.add_argument(
        "--data",
        default=ROOT.parent / "shared" / "data",
        help="folder of test.parquet and test_wild.parquet (default: ../shared/data)",
    )
    parser.add_argument("--output_dir", default=ROOT / "results", help="default: results")
    parser.add_argument("--quick", action="store_true", help="few texts: to see that everything works")
    arguments = parser.parse_args(argv)
    plan = QUICK if arguments.quick else FULL
    folders = {"TSN": arguments.checkpoint}
    if arguments.half:
        folders["TSN, half"] = arguments.half
    try:
        for name in folders.values():
            if not (Path(name) / "config.json").exists():
                raise OSError(f"{name} has no config.json: it is not a TSN checkpoint")
        config = TSNModel.config_class.from_pretrained(arguments.checkpoint)
        rows, sets = sample_sets(read_english(arguments.data, config), plan["rows"])
        folder = Path(arguments.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        record = measure(folders, rows, sets, plan)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"bench.curve: {error}")
    (folder / "curve.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "curve.md").write_text(f"# Quality against speed\n\n{tables(record)}", encoding="utf-8")
    plot(record, folder / "curve.png")
    print(tables(record), end="")


if __name__ == "__main__":
    main()
