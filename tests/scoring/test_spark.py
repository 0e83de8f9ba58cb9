"""The recipe for Spark of docs/scoring.md, as it stands there, on local Spark."""

import json
import os
import re
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer, pipeline

from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import ROOT, TEXTS

pytest.importorskip("pyspark", reason="pip install -r requirements/cluster.txt")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("java"), reason="no java: apt-get install default-jre-headless"),
]


def test_the_recipe_gives_what_the_pipeline_gives(hub_folder, tmp_path):
    page = (ROOT / "docs" / "scoring.md").read_text("utf-8")
    [recipe] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "pandas_udf" in block]
    assert recipe.count("org/tsn") == recipe.count("reviews.jsonl") == 1
    (tmp_path / "recipe.py").write_text(recipe.replace("org/tsn", str(hub_folder)), "utf-8")
    rows = [{"n": i, "text": (*TEXTS, "", None)[i % 7]} for i in range(700)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    pipeline("topic-sentiment-ner", model=str(hub_folder), trust_remote_code=True)  # two at once copy the code badly
    local = (
        "--master local[2] --conf spark.ui.enabled=false --conf spark.sql.files.maxPartitionBytes=32k pyspark-shell"
    )
    env = os.environ | {"PYSPARK_SUBMIT_ARGS": local, "PYSPARK_PYTHON": sys.executable}
    run = [sys.executable, "recipe.py"]
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr

    scored = sorted(pq.read_table(tmp_path / "scored").to_pylist(), key=lambda row: row["n"])
    pipe = TSNPipeline(TSNModel.from_pretrained(hub_folder), AutoTokenizer.from_pretrained(hub_folder))
    found = {text: pipe(text) for text in (*TEXTS, "")}
    assert [{"n": row["n"], "text": row["text"]} for row in scored] == rows
    for row in scored:
        wanted = found[row["text"] or ""]
        assert row["tsn"]["topics"] == [topic["word"] for topic in wanted["topics"]]
        assert row["tsn"]["sentiment"] == wanted["sentiment"]["label"]
    assert len({row["tsn"]["sentiment"] for row in scored}) > 1 and any(row["tsn"]["topics"] for row in scored)
