"""A system in a process of its own, pinned to so many cores, that answers texts and says how long it took.

    python -m bench.worker SYSTEM CORES

is what `Worker` starts: it reads a JSON list of texts a line and prints `{"seconds", "answers"}` a line.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

from bench import others
from tsn.paths import ROOT

OTHERS = ("SpacyEntities", "VaderSentiment", "YakeTopics", "Encoder")


class Worker:
    """The process.

    Args:
        system: `{"class"}`, one of `OTHERS`, or `{"folder", "options"}`: arguments of `TSNModel.from_pretrained`, in
            which `"dtype"` is a name.
        cores: Numbers of the cores that it may run on, as many as it gets threads.
    """

    def __init__(self, system, cores):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, it lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", json.dumps(system), json.dumps(cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment(len(cores)),
            cwd=ROOT,
            start_new_session=True,  # a group of its own, which `close` ends with all that it has started
        )

    def __call__(self, texts):
        """Seconds and answers.

        Raises:
            RuntimeError: the process ended; the message is the last line of what it wrote.
        """
        try:
            self.process.stdin.write(json.dumps(texts) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it tells below what it ended with
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError((self.errors.read().strip() or "it ended without a message").splitlines()[-1])
        reply = json.loads(line)
        return reply["seconds"], reply["answers"]

    def close(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.errors):
            file.close()


def environment(threads):
    """The variables of a process whose libraries are to use so many threads, those that read them on import."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads)), "TRANSFORMERS_VERBOSITY": "error"}


def available_cores():
    """Numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))


def pin(cores):
    """Keeps this process, and all threads it starts from now on, on these cores; only Linux can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


class InProcesses:
    """A system that has no threads of its own, in a process a core; each answers every so-manieth text.

    Args:
        name: One of `OTHERS`.
        count: Number of processes.
    """

    def __init__(self, name, count):
        self.count = count
        self.pool = ProcessPoolExecutor(count, initializer=_make, initargs=(name,))

    def __call__(self, texts):
        parts = list(self.pool.map(_ask, [texts[i :: self.count] for i in range(self.count)]))
        answers = [None] * len(texts)
        for i, part in enumerate(parts):
            answers[i :: self.count] = part
        return answers


def _make(name):
    global _system  # of a process of the pool
    _system = getattr(others, name)()


def _ask(texts):
    return _system(texts)


def load(system, threads):
    """The system that `Worker` describes: a function of a list of texts."""
    if system.get("class") == "Encoder":
        import torch

        torch.set_num_threads(threads)
        return others.Encoder()
    if "class" in system:
        if system["class"] not in OTHERS:
            raise ValueError(f"no system {system['class']!r}; choose from {', '.join(OTHERS)}")
        return getattr(others, system["class"])() if threads == 1 else InProcesses(system["class"], threads)
    return load_tsn(system["folder"], system["options"], threads)


def load_tsn(folder, options, threads):
    """TSN's public pipeline on one of its engines, in batches."""
    import torch
    from transformers import AutoTokenizer

    from modeling_tsn import TSNModel
    from pipeline_tsn import TSNPipeline

    torch.set_num_threads(threads)
    options = dict(options)
    if "dtype" in options:
        options["dtype"] = getattr(torch, options["dtype"])
    if options.keys() & {"onnx_file", "openvino_file"}:
        options["num_threads"] = threads
    model = TSNModel.from_pretrained(folder, **options).eval()
    pipe = TSNPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu")
    return lambda texts: pipe(texts, batch_size=others.BATCH_SIZE)


def main(system, cores):
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not a reply
    cores = json.loads(cores)
    pin(cores)
    answer = load(json.loads(system), len(cores))
    for line in sys.stdin:
        texts = json.loads(line)
        start = time.perf_counter()
        answers = answer(texts)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "answers": answers}), file=replies, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
