"""Fuzzes for a time, `python -m tests.fuzz --seconds 600 [TARGET ...]`; adds it to `record.json` and docs/fuzzing.md.

What is found ends a target's time. The input is kept in `out/fuzz`; to see it shrunk to an example,
`pytest tests/fuzz -k TARGET --hypothesis-profile fuzz`.
"""

import argparse
import json
import os
import platform
import random
import re
import struct
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from . import TARGETS

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
RECORD, PAGE = FOLDER / "record.json", ROOT / "docs" / "fuzzing.md"
PACKAGES = ("atheris", "hypothesis", "numpy", "pyarrow", "tokenizers", "torch", "transformers")
HANG_SECONDS, MEGABYTES = 60, 4096  # an input that takes more is a finding


def fuzz(target, seconds, corpus):
    """Runs a target in a process of its own.

    Args:
        target: One of `TARGETS`.
        seconds: To run for, unless something is found.
        corpus: Folder of inputs that reached new code, which a later run goes on from.

    Returns:
        dict: `target`, `seconds`, `inputs`, `cases` and `finding`, None or the error.
    """
    corpus.mkdir(parents=True, exist_ok=True)
    for size in range(64, 2048, 64):  # long enough for a whole case, which an empty corpus takes minutes to grow to
        (corpus / f"seed-{size:04}").write_bytes(random.Random(size).randbytes(size))
    found, counts = corpus.with_name(f"{target}.found"), corpus.with_name(f"{target}.counts")
    found.mkdir(exist_ok=True)
    counts.write_bytes(bytes(16))
    options = (
        f"-max_total_time={seconds}",
        f"-timeout={HANG_SECONDS}",
        f"-rss_limit_mb={MEGABYTES}",
        "-max_len=4096",
        "-len_control=0",
        f"-artifact_prefix={found}/",
        "-print_final_stats=0",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tests.fuzz.worker", target, str(counts), *options, str(corpus)]
    log = corpus.with_name(f"{target}.log")
    begin = time.monotonic()
    with log.open("wb") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT).returncode
    inputs, cases = struct.unpack("<QQ", counts.read_bytes())
    if inputs == 0:
        raise RuntimeError(f"{target} did not start, see {log}")
    finding = None if status == 0 else _error(log.read_text("utf-8", "replace")) or f"exit status {status}"
    fuzzed = re.search(r"^Done \d+ runs in (\d+) second", log.read_text("utf-8", "replace"), re.MULTILINE)
    elapsed = int(fuzzed[1]) if fuzzed else round(time.monotonic() - begin)  # without the start, if it got to the end
    return {"target": target, "seconds": elapsed, "inputs": inputs, "cases": cases, "finding": finding}


def _error(log):
    """The exception, or what libFuzzer says of a hang, too much memory or a crash."""
    before, found, after = log.partition(" ERROR: libFuzzer: ")
    if not found:
        return None
    reason = after.partition("\n")[0]
    lines = re.findall(r"^([\w.]+(?:: .*)?)$", before, re.MULTILINE) if reason == "fuzz target exited" else []
    message = (lines[-1] if lines else f"libFuzzer: {reason}").removesuffix(": <EMPTY MESSAGE>")
    # Where it was raised, or the last place of this repository on the way there.
    frames = re.findall(rf'File "{ROOT}/([\w/]+\.py)", line \d+, in \w+\n +(.*)', before)
    return message.replace(str(ROOT), ".")[:300] + (f" ({frames[-1][0]}: {frames[-1][1]})" if frames else "")


def versions():
    """Of what ran."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def table(runs):
    """What is recorded, by target, as Markdown."""
    lines = ["| target | seconds | inputs | cases | runs that ended in a finding |", "|---|--:|--:|--:|--:|"]
    of_all = [("all", runs)] if runs else []
    for name, own in [*((target, [run for run in runs if run["target"] == target]) for target in TARGETS), *of_all]:
        sums = [sum(run[key] for run in own) for key in ("seconds", "inputs", "cases")]
        numbers = [*sums, sum(run["finding"] is not None for run in own)]
        lines.append(f"| {name} | {' | '.join(f'{number:,}' for number in numbers)} |")
    return "\n".join(lines)


def with_table(text, runs):
    """The page with the table of the recorded runs."""
    return re.sub(r"(?s)(<!-- fuzz -->\n).*?(\n<!-- end -->)", lambda m: m[1] + table(runs) + m[2], text)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--corpus", default=ROOT / "out" / "fuzz", type=Path, help="what to go on from, and logs")
    parser.add_argument("--record", default=RECORD, type=Path, help="JSON file to add the runs to")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown or arguments.seconds < 1:
        parser.error(f"no target {', '.join(unknown)}" if unknown else "--seconds must be at least 1")
    failed = False
    for target in arguments.targets or TARGETS:
        run = fuzz(target, arguments.seconds, arguments.corpus.resolve() / target)
        runs = json.loads(arguments.record.read_text("utf-8")) if arguments.record.exists() else []
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in [*runs, {**run, **versions()}])
        arguments.record.write_text(f"[\n{lines}\n]\n", encoding="utf-8")  # a run a line
        if arguments.record == RECORD:
            PAGE.write_text(with_table(PAGE.read_text("utf-8"), json.loads(RECORD.read_text("utf-8"))), "utf-8")
        print(f"{target}: {run['cases']:,} cases in {run['seconds']} s; {run['finding'] or 'nothing found'}")
        failed = failed or run["finding"] is not None
    sys.exit(failed)


if __name__ == "__main__":
    main()
