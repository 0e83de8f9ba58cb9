"""Measures `score.py`: its speed beside the pipeline and on two cores, and its memory as the number of rows grows.

    python -m bench.scoring --rows 1000 100000 --output_dir results
    python -m bench.scoring --million   # memory over a million short texts, about half an hour on two cores

The texts are those of `examples/`, repeated, or their first words. Adds its figures to `scoring.json`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from bench.machine import describe_machine, versions
from tsn.paths import ROOT
from tsn.scoring import run as scoring
from tsn.scoring.arguments import build_parser

TURN_ROWS = 4000  # that score.py and the pipeline take turns on
TURNS = 3
SHORT = 3  # words in a short text


def write_rows(path, count, words=None):
    lines = (ROOT / "examples" / "reviews.jsonl").read_text("utf-8").splitlines()
    texts = [" ".join(json.loads(line)["text"].split()[:words]) for line in lines]
    with path.open("w", encoding="utf-8") as file:
        for i, text in enumerate(islice(cycle(texts), count)):
            file.write(json.dumps({"id": i, "text": text}) + "\n")


def resident_bytes(pid):
    """Resident memory of a process and all its descendants."""
    total, pids = 0, [pid]
    while pids:
        pid = pids.pop()
        try:
            pids += Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        except OSError:  # it has just ended
            continue
    return total


def run(folder, rows, threads, words=None):
    """Runs the command once.

    Returns:
        dict: `rows`, `threads`, `seconds`, and the memory of all its processes together, in MB: `peak_mb`, and `mb` at
        each tenth of the time.
    """
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    write_rows(source, rows, words)
    command = [sys.executable, ROOT / "score.py", source, "--output", output, "--threads", str(threads)]
    started, memory = time.perf_counter(), []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        memory.append(round(resident_bytes(process.pid) / 1e6))
        time.sleep(0.2)
    seconds = time.perf_counter() - started
    with output.open("rb") as file:
        in_order = sum(json.loads(line)["id"] == i for i, line in enumerate(file))
    if process.returncode or in_order != rows:
        raise RuntimeError(f"exit status {process.returncode}, {in_order} of {rows} rows came out in their places")
    output.unlink()
    tenths = [memory[len(memory) * i // 10] for i in range(1, 10)]
    return {"rows": rows, "threads": threads, "seconds": round(seconds, 1), "peak_mb": max(memory), "mb": tenths}


def beside_the_pipeline(folder):
    """Lets the pipeline on a list and `score.py` on a file of the same texts take turns, one thread each.

    Returns:
        tuple: the engine, and for each turn the seconds of `pipeline` and of `score`.
    """
    pipe = scoring.load(str(ROOT), "auto", 1, "cpu")
    scoring.load = lambda *_, **__: pipe  # compare the work, not the loading
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    write_rows(source, TURN_ROWS)
    texts = [json.loads(line)["text"] for line in source.read_text("utf-8").splitlines()]
    arguments = build_parser().parse_args([str(source), "--output", str(output), "--threads", "1"])
    turns = []
    for _ in range(TURNS):
        started = time.perf_counter()
        pipe(texts, batch_size=32)
        middle = time.perf_counter()
        scoring.score(arguments)
        turns.append({"pipeline": middle - started, "score": time.perf_counter() - middle})
        output.unlink()
    return pipe.model.ENGINE, turns


def main():
    parser = argparse.ArgumentParser(
        prog="python -m bench.scoring", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 100_000], help="number of rows of each run")
    parser.add_argument("--million", action="store_true", help="only score a million short texts")
    parser.add_argument("--output_dir", default=str(ROOT / "results"), help="default: results")
    arguments = parser.parse_args()
    path = Path(arguments.output_dir, "scoring.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    record = {"machine": describe_machine(), "versions": versions()}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if arguments.million:
            record = {"million": {**run(folder, 10**6, 2, SHORT), "words": SHORT, **record}}
        else:
            record["scaling"] = [run(folder, 20_000, threads) for threads in (1, 2)]
            record["runs"] = [run(folder, rows, 2) for rows in arguments.rows]
            record["engine"], record["turns"] = beside_the_pipeline(folder)
    path.write_text(json.dumps({**before, **record}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
