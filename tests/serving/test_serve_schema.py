"""The server against its own OpenAPI description, with requests that schemathesis makes of it, right and wrong."""

import json

import pytest

pytest.importorskip("fastapi", reason="pip install -r requirements/serve.txt")
pytest.importorskip("httptools", reason="pip install -r requirements/serve.txt")
pytest.importorskip("prometheus_client", reason="pip install -r requirements/serve.txt")
pytest.importorskip("schemathesis", reason="pip install schemathesis")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.serving.server import serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(onnx_folder, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("schema"), onnx_folder, "--workers", 1, "--max_body", 100_000) as server:
        yield server


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_what_is_answered_is_what_the_description_says(server, mode):
    """No 500, no status, type or shape that is not described, and nothing wrong that is taken."""
    schema, count = schemathesis.openapi.from_url(f"{server.url}/openapi.json"), 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.method == "get":
            continue  # there is nothing that could be wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=100,
            derandomize=True,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case):
            nonlocal count
            count += 1
            # Valid to the schema and refused: 7.0 for a whole number, and more overlap_words than max_words.
            excluded = [positive_data_acceptance]
            if case.path == "/predict/stream":  # says what is wrong line by line, behind a 200
                excluded.append(negative_data_rejection)
            case.call_and_validate(excluded_checks=excluded)

        check()
    assert count > 100
    assert server.predict("x") and server.process.poll() is None
