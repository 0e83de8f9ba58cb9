"""Starts `serve.py` as people do, in a process of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx

from tests.conftest import ROOT


class Server:
    """A server that has been started, and a client of it."""

    def __init__(self, process, url, log):
        self.process, self.url, self._log = process, url, log
        self.client = httpx.Client(base_url=url, timeout=600, trust_env=False)

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def log(self):
        return self._log.read_text("utf-8")

    def predict(self, inputs, **parameters):
        """The JSON of an answer, as bytes."""
        body = json.dumps({"inputs": inputs, "parameters": parameters})  # httpx would not encode lone surrogates
        answer = self.client.post("/predict", content=body)
        assert answer.status_code == 200, answer.text
        return answer.content

    def workers(self):
        """The worker processes."""
        import psutil

        found = []
        for child in psutil.Process(self.process.pid).children():
            try:
                found += [child] if "spawn_main" in " ".join(child.cmdline()) else []
            except psutil.Error:
                continue
        return found

    def wait_until_ready(self, workers=1):
        for _ in range(1200):
            assert self.process.poll() is None, self.log()
            if self.client.get("/health").json()["workers"] >= workers:
                return
            time.sleep(0.1)
        raise AssertionError(f"not ready: {self.log()}")

    def metric(self, name, **labels):
        """The value of a line of `/metrics`, 0 where there is none."""
        shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
        line = f"tsn_{name}{{{shown}}} " if labels else f"tsn_{name} "
        lines = [row for row in self.client.get("/metrics").text.splitlines() if row.startswith(line)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0


@contextmanager
def serving(folder, model, *options, environment=None, ready=True):
    """A [`Server`] on a free port, ready unless told otherwise; it is asked to stop at the end."""
    log = folder / "server.log"
    command = [sys.executable, str(ROOT / "serve.py"), "--model", str(model), "--port", "0", *map(str, options)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **(environment or {})}
        )
    server = None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), log.read_text("utf-8")
        server = Server(process, url, log)
        if ready:
            server.wait_until_ready()
        yield server
    finally:
        if server is not None:
            server.client.close()
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def lines_of(*requests):
    """Requests as JSON Lines."""
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)
