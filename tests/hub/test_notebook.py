"""`examples/notebook.ipynb`: a release carries it to the root of its repository, and there it runs top to bottom."""

import ast
import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.hub.release_workshop import release

NOTEBOOK = json.loads((ROOT / "examples" / "notebook.ipynb").read_text("utf-8"))
AT_THE_END = """
import json
spans = [t[span["start"] : span["end"]] == span["word"] for t, r in zip(texts, results) for span in r["topics"]]
end = long["chunks"][-1]["end"]
print(json.dumps([sorted(one), len(results), list(table), len(table), end, len(document), spans]))
"""


def code_cells(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    for cell in NOTEBOOK["cells"]:
        assert cell["cell_type"] == "markdown" or cell["outputs"] == [] and cell["execution_count"] is None
    for code in code_cells(NOTEBOOK)[1:]:
        ast.parse(code)


@pytest.mark.slow
def test_it_runs_top_to_bottom_on_the_released_model(clone, hub, tmp_path):
    done = release(clone, hub, "--repo_id", "someone/theirs", stub="answers")
    assert done.returncode == 0, done.stderr
    repository = hub.store.load("someone/theirs")
    entry = repository["commits"][repository["tags"]["v1.0.0"]]["files"]["notebook.ipynb"]
    install, *cells = code_cells(json.loads(hub.store.get(entry["sha256"])))
    assert install.startswith("%pip install ") and "org/tsn" not in "".join(cells)
    for package in shlex.split(install.removeprefix("%pip install"))[1:]:  # all of it is here, so none is fetched
        assert subprocess.run([sys.executable, "-m", "pip", "install", "--no-index", package]).returncode == 0, package
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join([*cells, AT_THE_END])],
        cwd=tmp_path,
        env=kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        encoding="utf-8",
    )
    assert ran.returncode == 0, ran.stderr
    keys, results, columns, rows, end, length, spans = json.loads(ran.stdout.splitlines()[-1])
    assert keys == ["entities", "sentiment", "topics"] and results == rows == 5 and spans and all(spans)
    assert columns == ["text", "sentiment", "score", "topics", "entities", "int8"] and end == length
