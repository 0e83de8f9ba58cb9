"""Measures how long each way of use takes from the start of a process to the first answer, and its peak memory.

    python -m bench.loading CHECKPOINT

CHECKPOINT is a folder that `quantize.py` wrote; engines whose file it lacks are left out. Every run is a process of
its own that answers one short text and ends, all ways in turn, after a first round that does not count. Prints a
table and writes `loading.json`. Processor seconds tell more than seconds where something else runs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from tqdm import tqdm

from bench.machine import describe_machine, versions
from tsn.hub.figures import loading_table
from tsn.paths import ROOT

TEXT = "Apple Pay arrived in Colombia on Tuesday. Customers love the new payment method."
PIPELINE = """
import json, sys
from transformers import pipeline
folder, options, text = sys.argv[1:]
options = json.loads(options)
print(json.dumps(pipeline("topic-sentiment-ner", model=folder, trust_remote_code=True, model_kwargs=options)(text)))
"""
# Linux counts what a process holds when it starts another into the other's peak: this one holds next to nothing.
STARTER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
values = time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss
print(json.dumps(values))
sys.exit(process.returncode != 0)
"""
ENGINES = {  # name: folder of a checkpoint, option of `model_kwargs` and file
    "onnx": ("onnx", "onnx_file", "model.onnx"),
    "int8": ("onnx", "onnx_file", "model_quantized.onnx"),
    "openvino": ("openvino", "openvino_file", "model_quantized.xml"),
}


def commands(checkpoint, folder):
    """The ways of use that a checkpoint allows: dict of a name to the command's arguments.

    Args:
        checkpoint: Folder of a model.
        folder: For what commands read and write.
    """
    checkpoint, folder = Path(checkpoint).resolve(), Path(folder)
    ways = {"torch": ["-c", PIPELINE, str(checkpoint), "{}", TEXT]}
    for engine, (place, option, name) in ENGINES.items():
        if (checkpoint / place / name).exists():
            ways[engine] = ["-c", PIPELINE, str(checkpoint), json.dumps({option: name}), TEXT]
    (folder / "one.txt").write_text(f"{TEXT}\n", encoding="utf-8")
    files = [str(folder / "one.txt"), "--output", str(folder / "scored.jsonl")]
    ways["score.py"] = ["score.py", *files, "--model", str(checkpoint)]
    ways["analyse.py"] = ["examples/analyse.py", TEXT, "--model", str(checkpoint), "--json"]
    return ways


def measure(arguments):
    """Runs Python with these arguments to its end.

    Returns:
        dict: `seconds`, `cpu_seconds`, and `peak_bytes`, the most memory that it had resident.

    Raises:
        RuntimeError: it failed; the message ends in what it said.
    """
    command = [sys.executable, "-S", "-c", STARTER, sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} failed:\n{done.stderr[-2000:]}")
    seconds, processor, peak = json.loads(done.stdout)
    return {
        "seconds": seconds,
        "cpu_seconds": processor,
        "peak_bytes": peak if sys.platform == "darwin" else peak * 1024,
    }


def run(checkpoint, repeats):
    """Measures every way `repeats` times, all of them once before any of them again.

    Returns:
        dict: what `loading.json` holds; of each way the lists of what [`measure`] gives.
    """
    machine = describe_machine()  # before this run is itself the load
    with tempfile.TemporaryDirectory() as folder:
        ways = commands(checkpoint, folder)
        measured = {way: {"seconds": [], "cpu_seconds": [], "peak_bytes": []} for way in ways}
        with tqdm(total=(repeats + 1) * len(ways), desc="loading", unit="process", smoothing=0) as bar:
            for turn in range(repeats + 1):
                for way, arguments in ways.items():
                    (Path(folder) / "scored.jsonl").unlink(missing_ok=True)
                    for name, value in measure(arguments).items():
                        if turn:
                            measured[way][name].append(value)
                    bar.update()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine,
        "versions": versions(),
        "repeats": repeats,
        "ways": measured,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m bench.loading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="folder of a TSN model")
    parser.add_argument("--output_dir", default=ROOT / "results", help="default: results")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way that count (default: 5)")
    arguments = parser.parse_args(argv)
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    try:
        if not (Path(arguments.checkpoint) / "model.safetensors").exists():
            raise OSError(f"{arguments.checkpoint} has no model.safetensors: it is not a TSN checkpoint")
        folder = Path(arguments.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        record = run(arguments.checkpoint, arguments.repeats)
    except (OSError, RuntimeError) as error:
        sys.exit(f"bench.loading: {error}")
    (folder / "loading.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(loading_table(record), end="")


if __name__ == "__main__":
    main()
