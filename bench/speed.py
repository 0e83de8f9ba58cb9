"""Measures how fast TSN is, and what memory it takes, beside the bare model and what one would do without TSN.

    python -m bench.speed CHECKPOINT
    python -m bench.speed out/int8 --quick

CHECKPOINT is a folder that `quantize.py` wrote: weights, tokenizer and `onnx/`. Prints tables and writes them as
`bench.md` beside `bench.json`, which holds every timing, and two plots. About seven minutes on two cores.
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # before transformers is imported

import torch

from bench import memory
from bench.figures import add_figures
from bench.machine import describe_machine, versions
from bench.measures import cost_by_length, int8_against_fp32, throughput
from bench.report import markdown, plot_length, plot_throughput
from bench.systems import ONNX_FILES, load_limits, load_tsn, pieces
from bench.texts import read_texts, sample
from bench.three_pipelines import ThreePipelines, save_models
from bench.usual_script import UsualScript
from tsn.paths import ROOT

# `sizes`: texts of each kind in batches and, of these, one at a time. `lengths`: words of a document, of each engine;
# `words`: of all documents of a length together.
FULL = {
    "sizes": {"tweets": (256, 64), "sentences": (256, 64), "news": (20, 8)},
    "lengths": {"int8": (100, 1000, 10_000, 100_000), "torch": (100, 1000, 10_000)},
    "words": 5000,
    "repeats": 5,
}
QUICK = {
    "sizes": {"tweets": (24, 6), "sentences": (24, 6), "news": (4, 1)},
    "lengths": {"int8": (100, 1000, 2000), "torch": (100, 1000, 2000)},
    "words": 1000,
    "repeats": 2,
}


def check_checkpoint(folder):
    """Raises OSError where the folder lacks what is measured."""
    folder = Path(folder)
    if not folder.is_dir():
        raise OSError(f"there is no folder {folder}")
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).exists():
            raise OSError(f"{folder} has no {name}: it is not a TSN checkpoint")
    for name in ONNX_FILES.values():
        if not (folder / "onnx" / name).exists():
            raise OSError(
                f"{folder} has no onnx/{name}: run python quantize.py {folder} --output_dir OUT first, and measure OUT"
            )


def run(checkpoint, texts, origin, plan, repeats, seconds):
    """Measures everything.

    Args:
        checkpoint: Folder with `onnx/`.
        texts, origin: See `texts.read_texts`.
        plan: `FULL` or `QUICK`.
        repeats: Timings of each system.
        seconds: Least length of a timing of `int8_against_fp32`.

    Returns:
        dict: what `bench.json` holds.
    """
    threads, machine = torch.get_num_threads(), describe_machine()  # before this run is itself the load
    pipes = {engine: load_tsn(checkpoint, engine, threads) for engine in ("torch", *ONNX_FILES)}
    limits = load_limits(checkpoint, pipes, threads)
    with tempfile.TemporaryDirectory() as folder:
        save_models(pipes["torch"].model, pipes["torch"].tokenizer, folder)
        three, script = ThreePipelines(folder), UsualScript(checkpoint)
        record = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "machine": machine,
            "versions": versions(),
            "threads": threads,
            "texts": origin,
            "repeats": repeats,
            "throughput": throughput(pipes, limits, three, script, texts, plan["sizes"], repeats),
            "length": cost_by_length(pipes, texts["news"], plan["lengths"], plan["words"], repeats),
            "int8": int8_against_fp32(checkpoint, threads, len(pipes["torch"].tokenizer), repeats, seconds),
        }
        news = sample(texts["news"], plan["sizes"]["news"][0])
        record["memory"] = memory.measure_all(checkpoint, folder, news, pieces(pipes["torch"], news))
    add_figures(record)
    return record


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="folder of a TSN model with its onnx folder")
    parser.add_argument(
        "--data",
        default=ROOT.parent / "shared" / "data",
        help="folder of test.parquet and news.parquet (default: ../shared/data; texts are made where it is absent)",
    )
    parser.add_argument("--output_dir", default=ROOT / "results", help="default: results")
    parser.add_argument("--repeats", type=int, help="timings of each system (default: 5, or 2 with --quick)")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="about how long a timing of a bare batch takes (default: 0.5)"
    )
    parser.add_argument("--quick", action="store_true", help="few texts: to see that everything works")
    arguments = parser.parse_args(argv)
    plan = QUICK if arguments.quick else FULL
    repeats = plan["repeats"] if arguments.repeats is None else arguments.repeats
    if repeats < 1 or arguments.seconds <= 0:
        parser.error("--repeats must be at least 1 and --seconds more than 0")
    try:
        check_checkpoint(arguments.checkpoint)
        texts, origin = read_texts(arguments.data)
        folder = Path(arguments.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        record = run(arguments.checkpoint, texts, origin, plan, repeats, arguments.seconds)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"bench.speed: {error}")
    tables = markdown(record)
    (folder / "bench.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (folder / "bench.md").write_text(tables, encoding="utf-8")
    plot_throughput(record, folder / "throughput.png")
    plot_length(record, folder / "length.png")
    print(tables, end="")


if __name__ == "__main__":
    main()
