"""What a model answers in a process that knows nothing of this repository.

`ask` runs this file with `python -P`, in an empty folder and with an empty cache, so that it can only load what is in
the model's folder or on the Hub.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TASK = "topic-sentiment-ner"  # not imported: the fresh process has only this file
TIME_LIMIT = 1800  # seconds
TOLERANCE = 1e-5  # between scores
TEXTS = [
    "Apple Pay arrived in Colombia on Tuesday. Customers love the new payment method.",
    "The soup was cold, but Maria at Chez Louis was lovely 🙂",
    "Die Batterie ist nach zwei Jahren leer, und der Kundendienst in München antwortet nicht.",
    "",
    " ".join(["The screen of this laptop is great, says Ana Torres of Banco Azul; its keyboard is awful."] * 9),
]


def ask(model, engines, cache, revision=None):
    """The pipeline's answers for `TEXTS` from each engine, without a network and without a token.

    Args:
        model: Folder, or Hub id whose revision is in the cache.
        engines: `"torch"`, and names of files of its `onnx` and `openvino` folders.
        cache: Folder of `download`, or an empty one.
        revision: Commit on the Hub.

    Returns:
        dict: engines to results.

    Raises:
        RuntimeError: the model does not load or answer; the message ends with the last lines of the process.
    """
    plan = {"model": str(model), "revision": revision, "engines": engines, "texts": TEXTS}
    return _run("answer", plan, cache, {"HF_HUB_OFFLINE": "1"})


def download(repo_id, revision, cache, token):
    """Downloads a whole commit into an empty cache, and runs nothing of it.

    Returns:
        Path: its folder.

    Raises:
        RuntimeError: the download fails.
    """
    return Path(_run("download", {"repo_id": repo_id, "revision": revision}, cache, {"HF_TOKEN": token}))


def _run(task, plan, cache, environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HF_", "TRANSFORMERS_"))}
    kept |= {name: os.environ[name] for name in ("HF_ENDPOINT", "HF_HUB_DISABLE_XET") if name in os.environ}
    environment = kept | {"HF_HOME": str(cache)} | environment
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(Path(__file__).resolve()), task],
                input=json.dumps(plan),
                capture_output=True,
                encoding="utf-8",
                cwd=empty,
                env=environment,
                timeout=TIME_LIMIT,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{task} did not finish within {TIME_LIMIT} s") from error
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"{task} in a fresh process failed: {last}")
    return json.loads(done.stdout.rpartition("\n")[2])


def same(answer, expected):
    """Whether two answers are the same, with scores within `TOLERANCE`."""
    if isinstance(expected, float) and isinstance(answer, (int, float)):
        return math.isclose(answer, expected, rel_tol=0, abs_tol=TOLERANCE)
    if isinstance(expected, dict) and isinstance(answer, dict):
        return answer.keys() == expected.keys() and all(same(answer[key], expected[key]) for key in expected)
    if isinstance(expected, list) and isinstance(answer, list):
        return len(answer) == len(expected) and all(map(same, answer, expected))
    return answer == expected


def _answer(model, revision, engines, texts):
    from transformers import pipeline

    answers = {}
    for name in engines:
        option = "openvino_file" if name.endswith(".xml") else "onnx_file"
        options = {} if name == "torch" else {"model_kwargs": {option: name}}
        tsn = pipeline(  # type: ignore[call-overload]  # the task is the model's own
            TASK, model=model, revision=revision, trust_remote_code=True, **options
        )
        answers[name] = tsn(texts)
    return answers


def _download(repo_id, revision, tries=3):
    from huggingface_hub import snapshot_download

    for left in reversed(range(tries)):
        try:
            return snapshot_download(repo_id, revision=revision)
        # A broken download is resumed; huggingface_hub itself retries only some causes. Its errors are OSErrors before
        # 1.0, and httpx's after.
        except Exception:
            if not left:
                raise
            time.sleep(2)


if __name__ == "__main__":
    tasks: dict[str, Callable] = {"answer": _answer, "download": _download}
    print(json.dumps(tasks[sys.argv[1]](**json.load(sys.stdin))), end="")
