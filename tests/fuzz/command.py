"""`score.py` by its command line, on any bytes: a row out for every row in, or an exit that says why."""

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

import score
from pipeline_tsn import TSNPipeline
from tests.conftest import make_model, make_tokenizer
from tests.fuzz.files import files
from tsn.scoring import run as scoring
from tsn.scoring.parts import NEW_COLUMNS
from tsn.scoring.rows import read_table

FOLDER = tempfile.TemporaryDirectory()
PIPE = TSNPipeline(make_model("bert", len(make_tokenizer())), make_tokenizer())
scoring.tqdm.monitor_interval = 0  # no thread beside the fuzzer


def run(arguments):
    """Its exit status or message, and what it wrote to standard output."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with (
        mock.patch.object(scoring, "load", lambda *_, **__: PIPE),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        try:
            score.main([*arguments, "--model", FOLDER.name, "--threads", "1"])
        except SystemExit as end:
            return end.code, ""
    out.flush()
    return 0, out.buffer.getvalue().decode()


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


@given(files(), st.sampled_from([".jsonl", ".parquet"]), st.booleans())
def holds(file, out_suffix, report):
    shutil.rmtree(FOLDER.name)
    folder = Path(FOLDER.name)
    folder.mkdir()
    path, output, page = folder / f"rows{file[0]}", folder / f"out{out_suffix}", folder / "report.html"
    path.write_bytes(file[1])
    status, printed = run([str(path), "--output", str(output), *(["--report", str(page)] if report else [])])
    if status != 0:
        assert isinstance(status, str) and status.startswith("score.py: ") and len(status) > 20
        assert not output.exists()
        return
    rows = list(read_table(path))
    if out_suffix == ".jsonl":
        lines = output.read_bytes().split(b"\n")
        assert lines.pop() == b""
        found = [json.loads(line, parse_constant=no_constant) for line in lines]
    else:
        table = pq.read_table(output)  # cells come out as they went in, also those that Python has no value for
        others = table.drop_columns([name for name in table.schema.names if name not in NEW_COLUMNS]).to_pylist()
        texts = [row.text is not None and table["text"][i].as_py() for i, row in enumerate(rows)]
        found = [{**row, "text": text} for row, text in zip(others, texts, strict=True)]
    assert len(found) == len(rows) and printed.startswith(f"{len(rows):,} rows")
    for row, result in zip(rows, found):
        assert (result["error"] is None) == (row.text is not None)
        assert (result["sentiment"] is None) == (
            result["sentiment_scores"] is None or not any(result["sentiment_scores"].values())
        )
        if row.text is not None:
            assert result["text"] == row.text
            assert all(row.text[s["start"] : s["end"]] == s["word"] for s in result["topics"] + result["entities"])
    assert page.exists() == report
    assert not Path(f"{output}.parts").exists()
