"""The options of `score.py`, and what can be checked before anything is read."""

import argparse
import os
from pathlib import Path

from tsn.paths import ROOT

THRESHOLDS = ("threshold", "entity_threshold")  # the pipeline's parameters of the same names


def build_parser(description=None):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=".csv, .tsv, .json, .jsonl, .ndjson, .parquet or .txt file, also packed (.gz, .bz2, .xz, .zst); a folder "
        "of .parquet files; - for standard input; or the id of a Hub data set. Several are scored one after another",
    )
    rows.add_argument("--text_column", default="text", metavar="NAME", help="column with the texts (default: text)")
    rows.add_argument("--split", default="train", metavar="NAME", help="split of a Hub data set (default: train)")

    results = parser.add_argument_group("results")
    results.add_argument("--output", required=True, metavar="FILE", help="file to write, .jsonl or .parquet")
    results.add_argument(
        "--report", metavar="FILE", help="also write an HTML page with the summary, bars and some examples"
    )
    results.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="SCORE",
        help="leave out topics with a lower score, 0 to 1 (default: 0, keep all). Scores are calibrated: of topics "
        "with a score of 0.7, about 70 in 100 are right",
    )
    results.add_argument(
        "--entity_threshold",
        type=float,
        default=0.0,
        metavar="SCORE",
        help="the same for entities (default: 0). 0.5 leaves out those that are more likely wrong than right",
    )

    model = parser.add_argument_group("model")
    model.add_argument(
        "--model", default=str(ROOT), metavar="MODEL", help="folder or Hub id (default: the model in this folder)"
    )
    model.add_argument(
        "--onnx",
        default="auto",
        metavar="FILE",
        help="file in the model's onnx/ folder; none: PyTorch; auto: on a CPU int8 if the model has it, in OpenVINO "
        "if that is installed and there are files for it (default)",
    )
    model.add_argument(
        "--openvino_file", metavar="FILE", help="file in the model's openvino/ folder, instead of --onnx"
    )
    model.add_argument(
        "--device",
        default="cpu",
        help="cpu (default) or a GPU such as cuda:0; with --engine ray, cuda gives each process a GPU",
    )

    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU cores to use, each with a process and a copy of the model (default: all of this machine, with "
        "--engine ray all of the cluster); fewer take less memory",
    )
    speed.add_argument("--batch_size", type=int, default=32, metavar="N", help="chunks per forward pass (default: 32)")
    speed.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: processes on this machine (default). ray: actors on a Ray cluster (pip install -r "
        "requirements/cluster.txt); it joins the one at RAY_ADDRESS or on this machine, or starts one for the run",
    )
    return parser


def check_arguments(arguments):
    """Checks everything that needs no reading of the inputs.

    Raises:
        ValueError: names the option and what is wrong with it.
    """
    for name in ("batch_size", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, not {value}")
    for name in THRESHOLDS:
        value = getattr(arguments, name)
        if not 0 <= value <= 1:
            raise ValueError(f"--{name} must be a number from 0 to 1, not {value}")
    output, report = Path(arguments.output), Path(arguments.report or os.devnull)
    if output.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"--output must end in .jsonl or .parquet, not {output.name!r}")
    for name, path in (("output", output), ("report", report)):
        if not path.parent.is_dir():
            raise ValueError(f"--{name}: folder {path.parent} does not exist")
        if any(path.resolve().is_relative_to(Path(other).resolve()) for other in arguments.inputs):
            raise ValueError(f"--{name} {path} is one of the inputs, or lies in one")
    if output.resolve() == report.resolve():
        raise ValueError("--report and --output are the same file")
