"""`serve.py` over real sockets: what it answers, to whom, and what it refuses."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="pip install -r requirements/serve.txt")
pytest.importorskip("httptools", reason="pip install -r requirements/serve.txt")
pytest.importorskip("prometheus_client", reason="pip install -r requirements/serve.txt")

import httpx

from tests.conftest import ROOT, TEXTS
from tests.runtime.test_pipeline import assert_same
from tests.serving.server import lines_of, serving
from tsn.loading import load

DOCUMENT = " ".join(TEXTS * 12)  # of more than one window
ODD = [
    "",
    " ",
    "\0",
    "\ud800",
    "a\0b \udfff c",
    "\n\n\n",
    "東京 です。",
    "🙂" * 50,
    "x" * 2000,
    f"{DOCUMENT}\n\n{' ' * 9000}",
]
LIMITS = {"max_texts": 40, "max_characters": 50_000, "max_body": 300_000, "max_queue": 50}


@pytest.fixture(scope="module")
def server(onnx_folder, tmp_path_factory):
    options = [word for name, value in LIMITS.items() for word in (f"--{name}", value)]
    with serving(tmp_path_factory.mktemp("serve"), onnx_folder, "--workers", 2, *options) as server:
        yield server


@pytest.fixture(scope="module")
def pipe(onnx_folder):
    return load(str(onnx_folder), "auto", 1, "cpu")


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"top_k": 2, "aggregation": "mean", "return_chunks": True},
        {"threshold": 0.3, "entity_threshold": 0.4, "aggregation": "vote", "return_chunks": True},
        {"max_words": 7, "overlap_words": 3, "return_chunks": True},
        {"max_words": 9, "top_k": 3},
        {"max_words": None, "top_k": None, "overlap_words": 0},
    ],
)
def test_answers_are_those_of_the_pipeline_to_the_bit(server, pipe, parameters):
    texts = [*TEXTS, DOCUMENT, *ODD]
    expected = [json.dumps(pipe(text, **parameters)) for text in texts]
    assert server.predict(texts, **parameters) == f"[{', '.join(expected)}]".encode()
    for text, answer in zip(texts[4:8], expected[4:8]):
        assert server.predict(text, batch_size=4, **parameters) == answer.encode()
    assert server.predict([]) == b"[]"


def test_an_openvino_file_is_served(openvino_folder, tmp_path):
    pipe = load(str(openvino_folder), "auto", 1, "cpu", openvino_file="model_quantized.xml")
    assert type(pipe.model).__name__ == "TSNOpenVinoModel"
    with serving(tmp_path, openvino_folder, "--workers", 1, "--openvino_file", "model_quantized.xml") as server:
        assert_same(json.loads(server.predict(TEXTS)), pipe(TEXTS))


def test_many_callers_at_once_get_their_own_answers(server, pipe):
    kinds = [{}, {"top_k": 1}, {"threshold": 0.5}, {"max_words": 5, "return_chunks": True}, {"max_words": 5}]
    calls = [(f"Caller {i} saw {TEXTS[i % 5]}" + DOCUMENT * (i % 17 == 0), kinds[i % 5]) for i in range(120)]
    expected = [json.dumps(pipe(text, **parameters)).encode() for text, parameters in calls]
    batches = server.metric("batch_texts_count"), server.metric("batch_texts_sum")

    def call(request):
        text, parameters = request
        return httpx.post(
            f"{server.url}/predict", json={"inputs": text, "parameters": parameters}, timeout=120
        ).content

    with ThreadPoolExecutor(20) as callers:
        assert list(callers.map(call, calls)) == expected
    count, texts = server.metric("batch_texts_count") - batches[0], server.metric("batch_texts_sum") - batches[1]
    assert texts > 1.5 * count  # texts of several callers went together
    assert server.metric("queue_texts") == 0


@pytest.mark.parametrize(
    "body, status, words",
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b'{"inputs": ' + b"1" * 5000 + b"}", 400, "not JSON"),
        (b"[]", 422, "a request is"),
        (b"{}", 422, "a request is"),
        (b'{"inputs": null}', 422, "not NoneType"),
        (b'{"inputs": ["x", 3]}', 422, "inputs[1] must be a string, not int"),
        (b'{"inputs": "x", "parameters": [1]}', 422, "parameters must be an object"),
        (b'{"inputs": "x", "parameters": {"topk": 1}}', 422, "unknown parameter topk"),
        (b'{"inputs": "x", "parameters": {"\\ud800": 1}}', 422, "unknown parameter"),
        (b'{"inputs": "x", "parameters": {"top_k": true}}', 422, "top_k"),
        (b'{"inputs": "x", "parameters": {"threshold": NaN}}', 422, "threshold must be a number from 0 to 1"),
        (b'{"inputs": "x", "parameters": {"aggregation": ["max"]}}', 422, "aggregation must be"),
        (b'{"inputs": "x", "parameters": {"batch_size": 1000}}', 422, "batch_size must be 256 at most"),
        (b'{"inputs": "x", "parameters": {"batch_size": 0}}', 422, "batch_size must be a whole number >= 1"),
        (b'{"inputs": "x", "parameters": {"max_words": 513}}', 422, "max_words must be 512 at most"),
        (b'{"inputs": "x", "parameters": {"overlap_words": 50}}', 422, "overlap_words (50) must be smaller"),
        (json.dumps({"inputs": ["x"] * 41}).encode(), 422, "41 texts; this server takes 40 in a request (max_texts)"),
        (json.dumps({"inputs": ["", "x" * 50_001]}).encode(), 422, "inputs[1] has 50001 characters"),
        (b" " * 300_001, 413, "larger than 300000 bytes (max_body)"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(server, body, status, words):
    before = server.metric("errors_total", path="/predict", status=status)
    answer = server.client.post("/predict", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert words in answer.json()["error"] and list(answer.json()) == ["error"]
    assert server.metric("errors_total", path="/predict", status=status) == before + 1
    answer = server.client.post("/predict", content=iter([body]))  # chunked, of a length that is not declared
    assert answer.status_code == status and words in answer.json()["error"]


@pytest.mark.parametrize(
    "method, path, status", [("GET", "/predict", 405), ("POST", "/health", 405), ("GET", "/x", 404)]
)
def test_other_paths_and_methods(server, method, path, status):
    answer = server.client.request(method, path)
    assert answer.status_code == status and answer.json()["error"]


def test_streams_answer_line_by_line_in_order(server, pipe):
    texts = [*TEXTS * 30, DOCUMENT, *ODD]
    requests = [{"inputs": f"{i}: {text}", "parameters": {"top_k": 3}} for i, text in enumerate(texts)]
    body = lines_of(*requests[:50]) + b"\n \nnot json\n{}\n" + lines_of(*requests[50:])
    answer = server.client.post("/predict/stream", content=body.rstrip(b"\n"))
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-ndjson"
    lines = answer.content.split(b"\n")
    assert lines.pop() == b""
    wrong = [json.loads(lines.pop(50)) for _ in range(2)]
    assert [line["status"] for line in wrong] == [400, 422] and "not JSON" in wrong[0]["error"]
    assert lines == [json.dumps(pipe(r["inputs"], top_k=3)).encode() for r in requests]


def test_a_stream_ends_at_a_line_that_is_too_long(server):
    answer = server.client.post("/predict/stream", content=lines_of({"inputs": TEXTS[0]}) + b"x" * 300_001)
    first, last = map(json.loads, answer.content.splitlines())
    assert first["sentiment"]["label"] and last == {
        "error": "a line is larger than 300000 bytes (max_body)",
        "status": 413,
    }


def test_the_description_and_its_examples(server):
    document = server.client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/predict", "/predict/stream", "/health", "/metrics"}
    [content] = document["paths"]["/predict"]["post"]["requestBody"]["content"].values()
    for example in content["examples"].values():
        answer = server.client.post("/predict", json=example["value"])
        assert answer.status_code == 200 and isinstance(
            answer.json(), list if example["summary"] != "A text" else dict
        )
    [content] = document["paths"]["/predict/stream"]["post"]["requestBody"]["content"].values()
    answer = server.client.post("/predict/stream", content=content["example"])
    assert len(answer.content.splitlines()) == content["example"].count("\n") == 2
    assert "swagger" in server.client.get("/docs").text


def test_metrics_count(server):
    before = server.metric("texts_total"), server.metric("request_seconds_count")
    server.predict(TEXTS[:3])
    assert server.metric("texts_total") == before[0] + 3 and server.metric("request_seconds_count") == before[1] + 1
    assert server.metric("requests_total", path="/predict", status=200) > 0
    assert server.metric("workers_ready") >= 1
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")


def test_no_text_in_the_log(server):
    server.client.post("/predict", json={"inputs": "confidential"})
    server.client.post("/predict?inputs=confidential", content=b"confidential")
    server.client.post("/", data={"text": "confidential"})
    server.client.get("/confidential")
    assert "confidential" not in server.log()


def test_the_handler_and_the_server_read_requests_with_one_function():
    code = (ROOT / "tsn" / "serving" / "requests.py").read_text("utf-8")
    assert re.search(r"from handler import read_request", code) and "unknown parameter" not in code
