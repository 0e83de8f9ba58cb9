"""Scores tables of any size: a row out for every row in, in order, with topics, sentiment and entities.

    python score.py reviews.csv --output scored.jsonl
    python score.py news/*.parquet --output scored.parquet --text_column body --threads 8 --report report.html

Reads CSV, JSON Lines, Parquet, plain text (a text a line) and Hub data sets, and keeps their columns; one named like
a new one (`topics`, `entities`, `sentiment`, `sentiment_scores`, `error`) is renamed to `input_...`. A row that
cannot be scored says why in `error`.

Stop it at any moment, and the same command goes on where it stopped: what is done lies in `OUTPUT.parts` until all is.
The table of what came out goes to standard output, the progress to standard error.
"""

import argparse
import sys
from pathlib import Path

from tsn.paths import ROOT
from tsn.scoring.run import score
from tsn.scoring.workers import WorkerKilled


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help=".csv, .jsonl, .parquet, .txt, or a Hub data set id"
    )
    parser.add_argument("--output", required=True, help="file to write: .jsonl or .parquet")
    parser.add_argument("--text_column", default="text", help="column that holds the texts (default: text)")
    parser.add_argument("--split", default="train", help="of a Hub data set (default: train)")
    parser.add_argument("--model", default=str(ROOT), help="folder or Hub id (default: the model of this folder)")
    parser.add_argument(
        "--onnx",
        default="auto",
        help="a file of the model's onnx folder, none, or auto: int8 if it is there (default)",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="chunks of a forward pass (default: 32)")
    parser.add_argument(
        "--threads",
        type=int,
        help="cores to use, each with a process and a model of its own (default: all, with ray those of the cluster)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: processes of this machine (default); ray: those of the Ray cluster that this machine is one of "
        "(RAY_ADDRESS, if of several), else of one begun for the run (needs requirements/cluster.txt)",
    )
    parser.add_argument("--report", help="HTML page to write: what came out, with plots and examples")
    parser.add_argument(
        "--device", default="cpu", help="such as cuda:0 (default: cpu); with ray cuda, a GPU for each process"
    )
    arguments = parser.parse_args(argv)
    for name in ("batch_size", "threads"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    sys.stdout.reconfigure(errors="backslashreplace")  # a phrase may hold what the terminal cannot show
    kept = f"what is done is kept in {arguments.output}.parts; the same command goes on from there"
    try:
        print(score(arguments).tables(), end="")
    except KeyboardInterrupt:
        print(f"\nscore.py: stopped; {kept}", file=sys.stderr)
        sys.exit(130)
    except WorkerKilled:
        sys.exit(f"score.py: a worker was killed, as when memory runs out; {kept}. Fewer --threads take less.")
    except (OSError, ValueError, ImportError, RuntimeError, MemoryError) as error:
        done = any(Path(f"{arguments.output}.parts").glob("[0-9]*.json")) and "delete" not in str(error)
        sys.exit(f"score.py: {error or type(error).__name__}{f'; {kept}' if done else ''}")


if __name__ == "__main__":
    main()
