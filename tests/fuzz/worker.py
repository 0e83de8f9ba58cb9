"""One fuzzer in a process of its own: `python -m tests.fuzz.worker TARGET COUNTS [options of libFuzzer]`."""

import importlib
import mmap
import struct
import sys
from pathlib import Path

import atheris

from tests.fuzz import MODULES


def main(target, counts_file, *options):
    """Runs the property `tests.fuzz.TARGET.holds` until libFuzzer ends the process.

    Counts what ran in `counts_file`, two numbers of 8 bytes: inputs, and those of them that made a whole case. The
    file is mapped, so that they are known however the process ends.
    """
    from hypothesis import settings

    with atheris.instrument_imports(include=list(MODULES)):
        importlib.import_module("tests.conftest")  # the profiles of Hypothesis
        # With a database, from which pytest replays and shrinks what was found.
        settings.load_profile("fuzz")
        property_test = importlib.import_module(f"tests.fuzz.{target}").holds
    run = property_test.hypothesis.fuzz_one_input
    with open(counts_file, "r+b") as file:
        counts = mmap.mmap(file.fileno(), 16)
    inputs = cases = 0

    def once(data):
        nonlocal inputs, cases
        inputs += 1
        try:
            cases += run(data) is not None
        except BaseException:
            cases += 1
            raise
        finally:
            counts[:] = struct.pack("<QQ", inputs, cases)

    atheris.Setup([str(Path(__file__)), *options], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
