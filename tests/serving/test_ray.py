"""The recipe for Ray Serve of docs/serving.md, as it stands there, on a local Ray."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

pytest.importorskip("ray.serve", reason="pip install -r requirements/cluster.txt")
pytest.importorskip("fastapi", reason="pip install -r requirements/serve.txt")
pytest.importorskip("prometheus_client", reason="pip install -r requirements/serve.txt")

from tests.conftest import ROOT, TEXTS
from tests.serving.server import free_port
from tsn.loading import load

pytestmark = pytest.mark.slow
RUN = """
import time
from ray import serve
from serving_on_ray import app
serve.start(http_options={"port": PORT})
serve.run(app)
print("running", flush=True)
time.sleep(3600)
"""


def test_the_recipe_answers_as_the_pipeline_does(onnx_folder, tmp_path):
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    [recipe] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "serve.ingress" in block]
    assert recipe.count("org/tsn") == 1 and recipe.count('"num_cpus": 2') == recipe.count('"--workers", "2"') == 1
    recipe = recipe.replace("org/tsn", str(onnx_folder)).replace('"num_cpus": 2', '"num_cpus": 1')
    (tmp_path / "serving_on_ray.py").write_text(recipe.replace('"--workers", "2"', '"--workers", "1"'), "utf-8")
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "RAY_ADDRESS": "local",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    code = RUN.replace("PORT", str(port))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        shown = ""
        while "running" not in shown:
            shown = process.stdout.readline()
            assert shown, (tmp_path / "log").read_text("utf-8")[-5000:]
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health"):
                    break
            except urllib.error.HTTPError as error:
                assert error.code == 503
        pipe = load(str(onnx_folder), "auto", 1, "cpu")
        for text in TEXTS:
            body = json.dumps({"inputs": text}).encode()
            with urllib.request.urlopen(f"{url}/predict", data=body) as answer:
                assert answer.read() == json.dumps(pipe(text)).encode()
        lines = b"".join(json.dumps({"inputs": text}).encode() + b"\n" for text in TEXTS)
        with urllib.request.urlopen(f"{url}/predict/stream", data=lines) as answer:
            assert answer.read().splitlines() == [json.dumps(pipe(text)).encode() for text in TEXTS]
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
