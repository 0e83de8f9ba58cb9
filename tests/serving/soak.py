"""Many requests to a server whose workers are killed, whose callers go away and whose queue is too small for them.

    python -m tests.serving.soak MODEL --requests 1000000

Every text carries its number, and every answer is compared with the pipeline's for that very text. Prints what
happened, and the memory of the server as it went on; ends with an error if an answer is wrong or missing, or memory
grows.
"""

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path

import psutil

from tests.conftest import TEXTS
from tests.serving.server import serving
from tsn.serving.analysis import load_pipeline

CALLERS, QUEUE, POOL = 64, 48, 300
CANCELLED, FEWEST_MB = 0.02, 20
DOCUMENT = " ".join(TEXTS * 8)


class Soak:
    """A run against a server; `wrong` lists what must not happen."""

    def __init__(self, server, expected, requests, kills):
        self.server, self.expected, self.left, self.kills = server, expected, requests, kills
        self.counts = {"answered": 0, "full": 0, "cancelled": 0, "lost_twice": 0, "killed": 0}
        self.wrong, self.memory, self._total = [], [], requests
        self._random = random.Random(0)

    async def run(self):
        await asyncio.gather(self._kill(), self._watch(), *(self._caller() for _ in range(CALLERS)))

    @property
    def done(self):
        return self._total - self.left

    async def _caller(self):
        connection = None
        while self.left > 0 and not self.wrong:
            self.left -= 1
            number = self._random.randrange(POOL)
            body = json.dumps({"inputs": text(number)}).encode()
            while connection is None or not await self._ask(connection, number, body):
                if connection is not None:
                    connection[1].close()
                connection = await asyncio.open_connection("127.0.0.1", self.server.port)
        if connection is not None:
            connection[1].close()

    async def _ask(self, connection, number, body):
        """Returns whether the request has ended and its connection can be used again."""
        reader, writer = connection
        while True:
            writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            if self._random.random() < CANCELLED:
                await asyncio.sleep(self._random.random() * 0.05)
                self.counts["cancelled"] += 1
                return False  # the caller goes away, and asks again on a new connection
            head = await reader.readuntil(b"\r\n\r\n")
            content = await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
            status = int(head.split()[1])
            if status == 200:
                self.counts["answered"] += 1
                if content != self.expected[number]:
                    self.wrong.append(f"text {number}: {content[:300]!r}")
                return True
            message = json.loads(content)["error"]
            if status != 503 or "queue is full" not in message and "process that analysed" not in message:
                self.wrong.append(f"text {number}: {status} {message}")
                return True
            self.counts["full" if "full" in message else "lost_twice"] += 1
            await asyncio.sleep(0.02 + self._random.random() * 0.05)

    async def _kill(self):
        for turn in range(1, self.kills + 1):
            while self.done < self._total * turn / (self.kills + 1) and not self.wrong:
                await asyncio.sleep(0.02)
            workers = self.server.workers()
            if workers:
                self._random.choice(workers).kill()
                self.counts["killed"] += 1

    async def _watch(self):
        main = psutil.Process(self.server.process.pid)
        for point in range(1, 41):
            while self.done < self._total * point / 40 and not self.wrong:
                await asyncio.sleep(0.05)
            self.memory.append(main.memory_info().rss / 1e6)


def text(number):
    """A text that carries its number; some are documents."""
    content = DOCUMENT if number % 50 == 0 else TEXTS[number % len(TEXTS)]
    return f"Number {number}. {content} So much for {number}."


def soak(model, requests, kills, folder):
    """Runs it; returns the [`Soak`]."""
    pipe = load_pipeline(str(model))
    expected = [json.dumps(pipe(text(number))).encode() for number in range(POOL)]
    assert len(set(expected)) == POOL
    with serving(folder, model, "--workers", 2, "--max_queue", QUEUE, "--max_texts", 1) as server:
        run = Soak(server, expected, requests, kills)
        started = time.perf_counter()
        asyncio.run(run.run())
        run.seconds = time.perf_counter() - started
        for _ in range(600):
            if server.metric("queue_texts") == 0:
                break
            time.sleep(0.1)
        else:
            run.wrong.append("texts are left in the queue")
    half = len(run.memory) // 2
    if max(run.memory[half:]) > max(run.memory[half // 2 : half]) + FEWEST_MB:
        run.wrong.append(f"memory has grown: {[round(mb) for mb in run.memory]}")
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder with a model in int8")
    parser.add_argument("--requests", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--kills", type=int, default=50, help="of workers (default: 50)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = soak(arguments.model, arguments.requests, arguments.kills, Path(folder))
    print(f"{run.counts} in {run.seconds:.0f} s; MB of memory: {[round(mb) for mb in run.memory]}")
    if run.wrong:
        raise SystemExit("\n".join(run.wrong[:20]))


if __name__ == "__main__":
    main()
