"""A short run of `tests/serving/soak.py`, which `python -m` runs for hours."""

import pytest

pytest.importorskip("fastapi", reason="pip install -r requirements/serve.txt")
pytest.importorskip("httptools", reason="pip install -r requirements/serve.txt")
pytest.importorskip("prometheus_client", reason="pip install -r requirements/serve.txt")
pytest.importorskip("psutil", reason="make test has it")

from tests.serving.soak import soak

REQUESTS, KILLS = 3000, 4


@pytest.mark.slow
def test_no_answer_is_wrong_or_given_to_another_caller(onnx_folder, tmp_path):
    run = soak(onnx_folder, REQUESTS, KILLS, tmp_path)
    assert not run.wrong
    assert run.counts["answered"] + run.counts["cancelled"] >= REQUESTS and run.counts["answered"] >= REQUESTS * 0.9
    assert all(run.counts[name] for name in ("full", "cancelled", "killed")), run.counts
