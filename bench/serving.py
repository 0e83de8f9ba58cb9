"""Measures `serve.py` over loopback: many callers beside `score.py` on the same texts, a lone caller, and short texts
beside a document of 100,000 words.

    python -m bench.serving --workers 2 --output_dir results

Each text carries its number, and each answer is compared with the pipeline's. Writes `serving.json` and `serving.png`.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from bench.figures import spread
from bench.machine import describe_machine, versions
from bench.texts import generate_texts, join_articles
from tsn.loading import chosen_files
from tsn.paths import ROOT
from tsn.serving.analysis import ENGINES, load_pipeline

TEXTS = 4000
SCORED = 4  # times as many are scored, and a quarter: the difference is without the loading, which varies by seconds
LONE_TEXTS = 400
TURNS = 3
PHASE_SECONDS = 300  # that a phase may take; it then counts what is done
DOCUMENT_WORDS = 100_000


def numbered_texts(number):
    """Short texts, each with its number."""
    tweets = generate_texts()["tweets"]
    return [f"{i}: {tweets[i % len(tweets)]}" for i in range(number)]


async def call(reader, writer, body):
    """Sends a request on an open connection; returns the answer's bytes and the seconds that it took."""
    started = time.perf_counter()
    writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    content = await reader.readexactly(length)
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answered {head.splitlines()[0].decode()}: {content[:200]!r}")
    return content, time.perf_counter() - started


async def phase(port, texts, expected, callers, until=None):
    """Callers that send one text after another, each its next when it has the last one's answer.

    Args:
        port: Of the server.
        texts, expected: What is sent, and the answers that have to come.
        callers: Number of connections.
        until: A task at whose end the phase ends, after at least one text, and until which texts are sent again from
            the first on.

    Returns:
        dict: `texts`, `seconds`, and the `latencies` in seconds, in the order in which they ended.
    """
    numbers, latencies, started = count(), [], time.perf_counter()

    async def caller():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for i in numbers:
                over = i >= len(texts) if until is None else latencies and until.done()
                if over or time.perf_counter() - started > PHASE_SECONDS:
                    return
                i %= len(texts)
                content, seconds = await call(reader, writer, json.dumps({"inputs": texts[i]}).encode())
                latencies.append(seconds)
                if content != expected[i]:
                    raise RuntimeError(f"the answer to text {i} is not the pipeline's")
        finally:
            writer.close()

    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"texts": len(latencies), "seconds": time.perf_counter() - started, "latencies": latencies}


async def beside_document(port, texts, expected, document, callers):
    """A phase that lasts as long as the server analyses a document, whose seconds it also returns."""

    async def analyse():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return (await call(reader, writer, json.dumps({"inputs": document}).encode()))[1]
        finally:
            writer.close()

    analysed = asyncio.create_task(analyse())
    await asyncio.sleep(0.3)
    if callers == 1:  # a few callers would finish long before
        result = await phase(port, texts, expected, callers, until=analysed)
    else:
        result = await phase(port, texts, expected, callers)
    result["document_done"] = analysed.done()
    if callers == 1:
        result["document_seconds"] = await analysed
    else:
        analysed.cancel()
    return result


def score_seconds(model, folder, texts, threads):
    """How long `score.py` takes in the engine of the server."""
    onnx_file, openvino_file = chosen_files(model, "auto", "cpu", engines=ENGINES)
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    command = [sys.executable, ROOT / "score.py", source, "--output", folder / "out.jsonl", "--model", model]
    command += ["--openvino_file", openvino_file] if openvino_file else ["--onnx", onnx_file]
    started = time.perf_counter()
    subprocess.run([*command, "--threads", str(threads)], check=True, capture_output=True)
    (folder / "out.jsonl").unlink()
    return time.perf_counter() - started


class Server:
    """`serve.py` in a process of its own, started and ready."""

    def __init__(self, model, workers):
        command = [sys.executable, ROOT / "serve.py", "--model", model, "--port", "0", "--workers", str(workers)]
        self.process = subprocess.Popen([*command, "--timeout", "3600"], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    async def ready(self):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if answer.startswith(b"HTTP/1.1 200"):
                return
            await asyncio.sleep(0.2)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def percentile(values, share):
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def shown(result):
    """A phase in milliseconds: a second's texts, median, 99th percentile and highest; and 100 points of its curve."""
    milliseconds = [1000 * seconds for seconds in result.pop("latencies")]
    return {
        **result,
        "texts_per_second": result["texts"] / result["seconds"],
        "median_ms": median(milliseconds),
        "p99_ms": percentile(milliseconds, 0.99),
        "max_ms": max(milliseconds),
        "curve_ms": [round(percentile(milliseconds, i / 100), 2) for i in range(100)],
    }


def measure(model, workers, callers, number):
    """All figures of a run; see the module."""
    scored, long = numbered_texts(SCORED * number), join_articles(generate_texts()["news"], DOCUMENT_WORDS)
    texts, first = scored[:number], number // 4
    pipe = load_pipeline(model)
    expected = [json.dumps(answer).encode() for answer in pipe(texts, batch_size=32)]
    chunk = " ".join(long.split()[:50])
    chunks = []
    for _ in range(50):
        started = time.perf_counter()
        pipe([chunk])
        chunks.append(time.perf_counter() - started)
    record = {"engine": pipe.model.ENGINE, "workers": workers, "callers": callers, "turns": []}
    record["chunk_ms"] = 1000 * median(chunks)
    server = Server(model, workers)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            asyncio.run(server.ready())
            asyncio.run(phase(server.port, texts[:200], expected, callers))  # warm
            for _ in range(TURNS):
                # The idle server takes no processor while score.py runs.
                small, large = (score_seconds(model, folder, some, workers) for some in (scored[:first], scored))
                many = shown(asyncio.run(phase(server.port, texts[first:], expected[first:], callers)))
                rate = (len(scored) - first) / (large - small)
                record["turns"].append({"score_per_second": rate, "many": many})
            lone = asyncio.run(phase(server.port, texts[:LONE_TEXTS], expected, 1))
            record["lone"] = shown(lone)
            record["lone_beside_document"] = shown(asyncio.run(beside_document(server.port, texts, expected, long, 1)))
            record["many_beside_document"] = shown(
                asyncio.run(beside_document(server.port, texts, expected, long, callers))
            )
    finally:
        server.stop()
    record["of_score"] = spread([t["many"]["texts_per_second"] / t["score_per_second"] for t in record["turns"]])
    record["p99_of_lone_median"] = spread(
        [turn["many"]["p99_ms"] / record["lone"]["median_ms"] for turn in record["turns"]]
    )
    return record


def plot(record, path):
    """Latencies: which share of the texts was answered within how many milliseconds."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    many = record["turns"][len(record["turns"]) // 2]["many"]
    lines = {
        "a lone caller": (record["lone"], "#1a73e8", "-"),
        "the same beside the document": (record["lone_beside_document"], "#1a73e8", ":"),
        f"{record['callers']} callers": (many, "#e8710a", "-"),
        "the same beside the document ": (record["many_beside_document"], "#e8710a", ":"),
    }
    for name, (result, colour, style) in lines.items():
        axes.plot(result["curve_ms"], range(100), style, color=colour, label=name)
    axes.set_xscale("log")
    axes.set(xlabel="milliseconds, logarithmic", ylabel="texts answered, of 100", ylim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(ROOT), help="folder with a model in int8 (default: this one)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: all usable cores")
    parser.add_argument("--callers", type=int, default=64, help="default: 64")
    parser.add_argument("--texts", type=int, default=TEXTS, help=f"number of short texts (default: {TEXTS})")
    parser.add_argument("--output_dir", default=str(ROOT / "results"), help="default: results")
    arguments = parser.parse_args()
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"machine": describe_machine(), "versions": versions()}
    record |= measure(arguments.model, arguments.workers, arguments.callers, arguments.texts)
    (folder / "serving.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    plot(record, folder / "serving.png")
    for name in ("of_score", "p99_of_lone_median"):
        print(name, record[name])


if __name__ == "__main__":
    main()
