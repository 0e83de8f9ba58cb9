"""`serve.py` when workers are killed, callers go away, send slowly or too much, and when it is asked to stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="pip install -r requirements/serve.txt")
pytest.importorskip("httptools", reason="pip install -r requirements/serve.txt")
pytest.importorskip("prometheus_client", reason="pip install -r requirements/serve.txt")
pytest.importorskip("psutil", reason="make test has it")

import httpx
import psutil

from tests.conftest import ROOT, TEXTS
from tests.serving.server import lines_of, serving
from tsn.loading import load

pytestmark = pytest.mark.slow
DOCUMENT = " ".join(TEXTS * 12)
LONG = " ".join(TEXTS * 200)  # about 11,000 words
BLOB = "a-" * 200_000  # a single word of very many tokens: a worker takes seconds for it


def connect(server, timeout=60):
    """A connection without a client, to send what none would."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=timeout)


@pytest.fixture(scope="module")
def running(onnx_folder, tmp_path_factory):
    options = ["--workers", 1, "--sender_timeout", 6, "--max_queue", 30, "--max_texts", 30, "--max_body", 2_000_000]
    with serving(tmp_path_factory.mktemp("stands"), onnx_folder, *options) as server:
        yield server


@pytest.fixture
def server(running):
    """Ready, whatever the test before has done to it."""
    running.wait_until_ready()
    return running


@pytest.fixture(scope="module")
def pipe(onnx_folder):
    return load(str(onnx_folder), "auto", 1, "cpu")


def post(server, body, headers=()):
    """A connection on which a request has been sent, as bytes on the wire."""
    connection = connect(server)
    head = [b"POST /predict HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers]
    connection.sendall(b"\r\n".join(head) + b"\r\n\r\n" + body)
    return connection


def until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_worker_is_replaced_and_its_requests_are_answered(server, pipe):
    """Killed while it works on a document and a stream; nobody notices but by the time."""
    stream = [{"inputs": f"{i} {DOCUMENT}"} for i in range(40)]
    with ThreadPoolExecutor(2) as callers:
        document = callers.submit(server.predict, LONG)
        lines = callers.submit(server.client.post, "/predict/stream", content=lines_of(*stream))
        until(lambda: server.metric("queue_texts") >= 2)
        [worker] = server.workers()
        worker.kill()
        assert document.result() == json.dumps(pipe(LONG)).encode()
        assert lines.result().content.splitlines() == [json.dumps(pipe(line["inputs"])).encode() for line in stream]
    assert server.metric("workers_replaced") >= 1
    [other] = server.workers()
    assert other.pid != worker.pid


def test_a_text_whose_worker_dies_twice_is_told(server):
    def kill():
        while not answered.is_set():
            if server.client.get("/health").json()["workers"] and server.metric("queue_texts"):
                for worker in server.workers():
                    worker.kill()
            time.sleep(0.2)

    answered = threading.Event()
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        answer = httpx.post(f"{server.url}/predict", json={"inputs": BLOB}, timeout=600)
    finally:
        answered.set()
        killer.join()
    assert answer.status_code == 503 and "the process that analysed the text ended" in answer.json()["error"]
    assert answer.headers["retry-after"] == "1"
    server.wait_until_ready()
    assert server.predict(TEXTS[0])


def test_a_stopped_model_is_not_healthy(server):
    [worker] = server.workers()
    worker.kill()
    until(lambda: server.client.get("/health").status_code == 503)
    assert server.client.get("/health").json() == {"status": "loading", "workers": 0}
    server.wait_until_ready()


def test_a_full_queue_says_when_to_come_back_and_cancelled_callers_free_their_place(server):
    body = json.dumps({"inputs": [f"{i} {LONG[:20_000]}" for i in range(30)]}).encode()
    gone = server.metric("cancelled_total")
    caller = post(server, body)
    until(lambda: server.metric("queue_texts") == 30)
    answer = server.client.post("/predict", json={"inputs": "x"})
    assert answer.status_code == 503 and "queue is full" in answer.json()["error"] and answer.headers["retry-after"]
    caller.close()
    until(lambda: server.metric("queue_texts") == 0)
    assert server.metric("cancelled_total") == gone + 1
    assert server.predict(TEXTS[0])


def test_a_stream_whose_caller_goes_away_frees_its_place(server):
    body = lines_of(*({"inputs": LONG[:60_000]} for _ in range(20)))
    caller = connect(server, None)
    caller.sendall(b"POST /predict/stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (2 * len(body)) + body)
    until(lambda: server.metric("queue_texts") > 5)
    caller.close()
    until(lambda: server.metric("queue_texts") == 0)


def test_a_stream_answers_while_it_is_being_sent(server, pipe):
    """Each line is sent only when the one before has been answered."""
    caller = connect(server)
    caller.sendall(b"POST /predict/stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    answers = caller.makefile("rb")
    while answers.readline().strip():
        pass
    for text in TEXTS[:3]:
        line = lines_of({"inputs": text})
        caller.sendall(b"%x\r\n%s\r\n" % (len(line), line))
        size = int(answers.readline(), 16)
        assert answers.read(size + 2).strip() == json.dumps(pipe(text)).encode()
    caller.sendall(b"0\r\n\r\n")
    assert answers.readline() == b"0\r\n"
    caller.close()


def test_a_long_stream_takes_little_memory(server):
    """The server reads only so far ahead of what its caller reads."""
    line, count = lines_of({"inputs": TEXTS[0] + " x" * 40_000}), 400
    main = psutil.Process(server.process.pid)
    caller = connect(server, 120)
    caller.sendall(b"POST /predict/stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(line) * count))
    sender = threading.Thread(target=lambda: caller.sendall(line * count), daemon=True)
    before = main.memory_info().rss
    sender.start()
    time.sleep(2)
    grown = main.memory_info().rss - before
    caller.close()
    assert len(line) * count > 30_000_000 and grown < 15_000_000
    until(lambda: server.metric("queue_texts") == 0)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /predict HTTP/1.1\r\nHost: ",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /predict/stream HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
    ],
)
def test_slow_senders_are_not_waited_for(server, sent):
    caller = connect(server)
    caller.sendall(sent)
    answer = caller.makefile("rb").read()  # until the server closes
    assert (b"408" in answer) == (b"Content-Length" in sent)
    caller.close()


def test_a_sender_of_endless_headers_is_cut_off(server):
    caller = connect(server)
    caller.sendall(b"GET /health HTTP/1.1\r\n")
    with pytest.raises(OSError):
        for i in range(100_000):
            caller.sendall(b"X-%d: %s\r\n" % (i, b"y" * 1000))
    caller.close()
    assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\0" * 100 + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1e9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n",
    ],
)
def test_requests_that_are_no_http(server, sent):
    caller = connect(server)
    caller.sendall(sent)
    assert caller.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
    caller.close()


def test_asked_to_stop_it_answers_what_it_has_taken(onnx_folder, pipe, tmp_path):
    with serving(tmp_path, onnx_folder, "--workers", 1) as server:
        stream = post_stream(server, TEXTS[0])
        with ThreadPoolExecutor(5) as callers:
            texts = [f"{i} {DOCUMENT}" for i in range(4)] + [LONG]
            answers = [callers.submit(server.predict, text) for text in texts]
            until(lambda: server.metric("queue_texts") >= 3)
            server.process.send_signal(signal.SIGTERM)
            assert [answer.result() for answer in answers] == [json.dumps(pipe(text)).encode() for text in texts]
        rest = stream.makefile("rb").read()
        assert json.dumps(pipe(TEXTS[0])).encode() in rest and b"the server is stopping" in rest
        stream.close()
        children = psutil.Process(server.process.pid).children() if server.process.poll() is None else []
        assert server.process.wait(60) in (0, -signal.SIGTERM)
        assert not psutil.wait_procs(children, timeout=60)[1]
        assert "Traceback" not in server.log()


def post_stream(server, text):
    caller = connect(server)
    line = lines_of({"inputs": text})
    head = b"POST /predict/stream HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    caller.sendall(head + b"%x\r\n%s\r\n" % (len(line), line))
    return caller


def test_workers_end_with_a_server_that_is_killed(onnx_folder, tmp_path):
    with serving(tmp_path, onnx_folder, "--workers", 2) as server:
        workers = server.workers()
        os.kill(server.process.pid, signal.SIGKILL)
        assert len(workers) == 2 and not psutil.wait_procs(workers, timeout=60)[1]


def test_a_key_is_asked_for(onnx_folder, tmp_path):
    key = {"Authorization": "Bearer s3cret"}
    with serving(tmp_path, onnx_folder, "--workers", 1, environment={"TSN_API_KEY": "s3cret"}) as server:
        for method, path in (("POST", "/predict"), ("POST", "/predict/stream"), ("GET", "/metrics")):
            body = {"json": {"inputs": "x"}} if method == "POST" else {}
            for wrong in ("", "Bearer s3cre", b"Bearer s3cr\xe9t", "s3cret"):
                answer = server.client.request(method, path, headers={"Authorization": wrong}, **body)
                assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert server.client.request(method, path, headers=key, **body).status_code == 200
        assert server.client.get("/health").status_code == 200
        assert "s3cret" not in " ".join(psutil.Process(server.process.pid).cmdline()) + server.log()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--max_texts", "9999"], "must not exceed --max_queue"),
        (["--timeout", "nan"], "--timeout must be"),
        (["--api_key", ""], "--api_key"),
    ],
)
def test_what_is_wrong_at_the_start_is_named(options, words):
    run = [sys.executable, str(ROOT / "serve.py"), "--port", "0", *options]
    done = subprocess.run(run, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named(server):
    run = [sys.executable, str(ROOT / "serve.py"), "--port", str(server.port)]
    done = subprocess.run(run, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 1 and "Address already in use" in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )
