"""Evaluates a TSN checkpoint on annotated data, text by text through the public pipeline.

    python eval.py CHECKPOINT DATA [DATA ...]
    python eval.py . ../shared/data/test.parquet

Prints a table with a row for each source and language, and writes it as `eval_results.md` beside `eval_results.json`,
which holds every figure, the weights' SHA-256 and the versions that measured it. Several data files are evaluated
together; for results of each file, run it once for each with an `--output_dir` of its own. `--plots` draws the
confusion matrices and how far scores can be read as probabilities.

The figures are defined in tsn/evaluation/metric.py (spans and texts) and tsn/evaluation/aspects.py (the sentiment of
topics and targets, end to end, entities on common nouns).
"""

import argparse
import sys

from tsn.evaluation.run import evaluate


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of a TSN model")
    parser.add_argument("data", nargs="+", help="annotated .parquet, .jsonl or .csv files, or Hub data set ids")
    parser.add_argument("--output_dir", default=".", help="where eval_results.json and .md go (default: here)")
    parser.add_argument("--batch_size", type=int, default=32, help="chunks per forward pass (default: 32)")
    parser.add_argument("--onnx_file", help="evaluate this file of the checkpoint's onnx folder instead")
    parser.add_argument("--openvino_file", help="the same for its openvino folder")
    parser.add_argument(
        "--plots",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="also draw confusion matrices and calibration as PNG files in this folder (default: --output_dir)",
    )
    parser.add_argument("--device", default=None, help="such as cpu or cuda:0 (default: a GPU if there is one)")
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        parser.error(f"--batch_size must be at least 1, not {arguments.batch_size}")
    sys.stdout.reconfigure(errors="backslashreplace")  # a source's name may hold what the terminal cannot show
    try:
        print(evaluate(arguments), end="")
    except (OSError, ValueError) as error:
        sys.exit(f"eval.py: {error}")


if __name__ == "__main__":
    main()
