"""The server against its own OpenAPI description, with requests that schemathesis makes of it, right and wrong."""

import pytest

pytest.importorskip("fastapi", reason="pip install -r requirements/serve.txt")
pytest.importorskip("httptools", reason="pip install -r requirements/serve.txt")
pytest.importorskip("prometheus_client", reason="pip install -r requirements/serve.txt")
schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")

from hypothesis import HealthCheck, Phase, settings  # noqa: E402

from tests.serving.server import serving  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(onnx_folder, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("schema"), onnx_folder, "--workers", 1, "--max_body", 100_000) as server:
        yield server


@pytest.fixture
def description(server):
    config = schemathesis.Config.from_dict({"generation": {"mode": "all"}})
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=config)


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_what_is_answered_is_what_the_description_says(case):
    """No 500, no status, type or shape that is not described, and nothing wrong that is taken."""
    case.call_and_validate()
