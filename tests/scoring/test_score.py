"""`score.py` on the command line: one row out for every row in, and the same bytes however often it is killed."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import ROOT, TEXTS
from tsn.scoring import run as scoring
from tsn.scoring.arguments import build_parser
from tsn.scoring.parts import _json_line
from tsn.scoring.rows import Row
from tsn.scoring.summary import Summary

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("KILLS", "5"))
BAD = [None, 3, "", "  ", "\ud800", "nul \0 byte", ["x"], {"a": 1}]


def command(*arguments):
    return [sys.executable, str(ROOT / "score.py"), *map(str, arguments)]


def run(*arguments, **options):
    return subprocess.run(command(*arguments), capture_output=True, encoding="utf-8", **options)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def read_lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def model(onnx_folder):
    return onnx_folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Some 1,700 rows, some of which cannot be scored."""
    rows = [{"n": i, "text": (BAD if i % 50 == 0 else TEXTS)[i % (8 if i % 50 == 0 else 5)]} for i in range(1700)]
    return write_lines(tmp_path_factory.mktemp("table") / "in.jsonl", rows), rows


@pytest.fixture(scope="module")
def whole(table, model, tmp_path_factory):
    """The output of an undisturbed run with two workers."""
    output = tmp_path_factory.mktemp("whole") / "out.jsonl"
    done = run(table[0], "--output", output, "--model", model, "--threads", 2)
    assert done.returncode == 0, done.stderr
    return output.read_bytes(), done


def expected(model, rows, **parameters):
    """Each row with the results of the pipeline itself for its text."""
    loaded = TSNModel.from_pretrained(model, onnx_file="model_quantized.onnx")
    pipe, out = TSNPipeline(loaded, AutoTokenizer.from_pretrained(model), **parameters), []
    for row in rows:
        result = pipe(row["text"]) if isinstance(row["text"], str) else {"topics": [], "entities": []}
        spans = {
            k: [{**s, **{n: round(s[n], 4) for n in s if n.endswith("score")}} for s in result[k]]
            for k in ("topics", "entities")
        }
        sentiment = result.get("sentiment", {"label": None, "scores": None})
        scores = sentiment["scores"] and {k: round(v, 4) for k, v in sentiment["scores"].items()}
        out.append({**row, **spans, "sentiment": sentiment["label"], "sentiment_scores": scores})
    return out


def test_a_row_out_for_every_row_in(table, whole, model):
    _, rows = table
    scored = [json.loads(line) for line in whole[0].decode().splitlines()]
    errors = [row.pop("error") for row in scored]
    assert scored == expected(model, rows)
    assert [error is None for error in errors] == [isinstance(row["text"], str) for row in rows]
    assert (
        "1,700 rows" in whole[1].stdout
        and f"{sum(e is not None for e in errors)} of them could not" in whole[1].stdout
    )
    wordless = sum(row["sentiment"] is None and error is None for row, error in zip(scored, errors))
    assert wordless and f"Texts without a word, not counted below: {wordless}.\n" in whole[1].stdout
    assert "texts/s" in whole[1].stderr


def test_an_openvino_file_scores(table, openvino_folder, tmp_path):
    source, output = write_lines(tmp_path / "in.jsonl", table[1][:20]), tmp_path / "out.jsonl"
    options = ["--model", openvino_folder, "--threads", 1]
    done = run(source, "--output", output, *options, "--openvino_file", "model_quantized.xml")
    assert done.returncode == 0, done.stderr
    model = TSNModel.from_pretrained(openvino_folder, openvino_file="model_quantized.xml", num_threads=1)
    pipe = TSNPipeline(model, AutoTokenizer.from_pretrained(openvino_folder))
    for row in map(json.loads, output.read_text("utf-8").splitlines()):
        if row["error"] is None:
            assert [topic["start"] for topic in row["topics"]] == [t["start"] for t in pipe(row["text"])["topics"]]
    files = scoring.fingerprint(str(openvino_folder), "model_quantized.xml")
    assert any("model_quantized.bin" in file for file in files)
    done = run(source, "--output", tmp_path / "x.jsonl", *options, "--openvino_file", "x.xml")
    assert done.returncode == 1 and "openvino/x.xml" in done.stderr and "Traceback" not in done.stderr


def test_killed_anywhere_it_goes_on_to_the_same_bytes(table, whole, model, tmp_path):
    """Killed KILLS times at random moments: while it loads, scores, writes or joins parts."""
    output, seeds = tmp_path / "out.jsonl", random.Random(0)
    arguments = (table[0], "--output", output, "--model", model, "--threads", 2)
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(
            command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait = seeds.choice([seeds.uniform(0, 3), seeds.uniform(6, 12)])
        try:
            assert process.wait(wait) == 0
            assert output.read_bytes() == whole[0]
            output.unlink()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            assert not output.exists() or output.read_bytes() == whole[0]
    done = run(*arguments)
    assert done.returncode == 0 or "is there already" in done.stderr, done.stderr
    assert output.read_bytes() == whole[0] and not (tmp_path / "out.jsonl.parts").exists()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("source", ["csv", "parquet", "txt", "jsonl"])
def test_formats(source, suffix, model, tmp_path):
    texts = [*TEXTS, "a, b", "last"]
    path = tmp_path / f"in.{source}"
    if source == "txt":
        path.write_text("\n".join(texts), "utf-8")
    elif source == "csv":
        path.write_text("n,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(texts)), "utf-8")
    elif source == "parquet":
        pq.write_table(pa.table({"n": range(7), "text": texts, "day": pa.array([1] * 7, pa.date32())}), path)
    else:
        write_lines(path, [{"n": i, "text": text} for i, text in enumerate(texts)])
    output = tmp_path / f"out{suffix}"
    done = run(path, path, "--output", output, "--model", model, "--threads", 1)
    assert done.returncode == 0, done.stderr
    scored = read_lines(output) if suffix == ".jsonl" else pq.read_table(output).to_pylist()
    assert [row["text"] for row in scored] == texts * 2
    wanted = expected(model, [{"text": text} for text in texts])
    names = ("topics", "entities", "sentiment", "sentiment_scores")
    assert [{name: row[name] for name in names} for row in scored] == [{n: r[n] for n in names} for r in wanted] * 2
    if source != "txt":
        assert [str(row["n"]) for row in scored] == [*map(str, range(7))] * 2
    if source == "parquet":
        assert str(scored[0]["day"]) == "1970-01-02"


def test_parquet_of_columns_that_come_and_go(model, tmp_path):
    """Parts that lack a column, or have only nulls, whole numbers or fractions in it."""
    rows = [{"text": "x", "a": None}] * scoring.PART_ROWS + [{"text": None, "a": 1}] * scoring.PART_ROWS
    rows += [{"text": "y", "a": 1.5, "b": "late"}]
    output = tmp_path / "out.parquet"
    done = run(write_lines(tmp_path / "in.jsonl", rows), "--output", output, "--model", model, "--threads", 1)
    assert done.returncode == 0, done.stderr
    scored = pq.read_table(output).to_pylist()
    assert [(row["text"], row["a"], row["b"]) for row in scored] == [(r["text"], r["a"], r.get("b")) for r in rows]
    mixed = write_lines(tmp_path / "mixed.jsonl", [{"text": "x", "a": 1}, {"text": "x", "a": "one"}])
    done = run(mixed, "--output", tmp_path / "mixed.parquet", "--model", model, "--threads", 1)
    assert done.returncode == 1 and "column 'a' does not fit into Parquet" in done.stderr, done.stderr


def test_thresholds_leave_out_topics_and_entities(table, whole, model, tmp_path):
    """Each has its own; the values are such that some of each stay and some go."""
    rows = table[1][:300]
    scores = {
        kind: sorted(span["score"] for line in whole[0].splitlines()[:300] for span in json.loads(line)[kind])
        for kind in ("topics", "entities")
    }
    low, high = (scores[kind][len(scores[kind]) * share // 4] for kind, share in (("topics", 1), ("entities", 3)))
    output, source = tmp_path / "out.jsonl", write_lines(tmp_path / "in.jsonl", rows)
    arguments = (source, "--output", output, "--model", model, "--threads", 1)
    done = run(*arguments, "--threshold", low, "--entity_threshold", high)
    assert done.returncode == 0, done.stderr
    for row, wanted in zip(
        read_lines(output), expected(model, rows, threshold=low, entity_threshold=high), strict=True
    ):
        assert (row["topics"], row["entities"]) == (wanted["topics"], wanted["entities"])
    kept = {kind: sum(len(row[kind]) for row in read_lines(output)) for kind in scores}
    assert all(0 < kept[kind] < len(scores[kind]) for kind in scores)
    assert kept["topics"] / len(scores["topics"]) > kept["entities"] / len(scores["entities"])


def test_parts_of_another_threshold_are_not_joined(model, tmp_path):
    arguments = build_parser().parse_args(["in.jsonl", "--output", "out.jsonl", "--model", str(model)])
    before = scoring.run_settings(arguments)
    arguments.entity_threshold = 0.5
    assert scoring.run_settings(arguments) != before


def test_one_text_that_fails_does_not_end_the_others():
    def pipe(texts, batch_size=1):
        given = [texts] if isinstance(texts, str) else texts
        if "bad" in given:
            raise IndexError("no such thing")
        results = [{"topics": [], "entities": [], "sentiment": {"label": "neutral", "scores": {}}} for _ in given]
        return results[0] if isinstance(texts, str) else results

    rows = [Row({"text": text}, text, None) for text in ("good", "bad", "fine")] + [Row({}, None, "null")]
    scored = scoring.score_rows(pipe, rows, 8)
    assert [row["sentiment"] for row in scored] == ["neutral", None, "neutral", None]
    assert [row["error"] for row in scored] == [None, "could not be scored (IndexError: no such thing)", None, "null"]


def test_output_is_json_and_long_texts_make_small_parts():
    strict = json.loads(_json_line({"a": [float("nan"), {"b": float("inf")}], "c": b"\xff", "d": "\ud800"}))
    assert strict == {"a": [None, {"b": None}], "c": "/w==", "d": "\ud800"}
    rows = [Row({}, "x" * 1_000_000, None)] * 10 + [Row({}, "x", None)] * 1200
    sizes = [len(part) for part in scoring.cut(rows)]
    assert sizes == [4, 4, 500, 500, 202]


def test_a_report_beside_the_output(table, whole, model, tmp_path):
    output, page = tmp_path / "out.jsonl", tmp_path / "report.html"
    done = run(table[0], "--output", output, "--model", model, "--threads", 1, "--report", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text("utf-8")
    assert "1,700 rows" in text and text.count("<article>") == 4 and "in.jsonl" in text and str(tmp_path) not in text
    assert output.read_bytes() == whole[0]  # by one worker as by two


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_nothing_in_nothing_out(suffix, model, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"")
    done = run(tmp_path / "in.txt", "--output", tmp_path / f"out{suffix}", "--model", model)
    assert done.returncode == 0 and done.stdout.startswith("0 rows"), done.stderr
    assert (tmp_path / f"out{suffix}").exists()


def test_columns_of_the_same_name_are_kept(model):
    pipe = scoring.load(str(model), "none", 1, "cpu")
    row = Row({"text": "Fine.", "topics": "mine", "input_topics": "too", "error": 3}, "Fine.", None)
    [scored] = scoring.score_rows(pipe, [row], 8)
    assert scoring.kept_name("topics") == "input_topics" and scoring.kept_name("text") == "text"
    assert scored["input_topics"] == "mine" and scored["input_input_topics"] == "too" and scored["input_error"] == 3
    assert scored["error"] is None and isinstance(scored["topics"], list)


def test_a_full_disk_ends_with_a_message_and_what_is_done_is_kept(model, tmp_path):
    """A limit on file size stands in for a full disk: writing fails in the same place."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, resource.RLIM_INFINITY))

    rows = [{"n": i, "text": "" if i < scoring.PART_ROWS else TEXTS[i % 5]} for i in range(scoring.PART_ROWS + 300)]
    output = tmp_path / "out.jsonl"
    arguments = (write_lines(tmp_path / "in.jsonl", rows), "--output", output, "--model", model, "--threads", 1)
    done = run(*arguments, preexec_fn=limit)
    assert (
        done.returncode == 1 and "the disk is full" in done.stderr and "run the same command again" in done.stderr
    ), done.stderr
    assert "Traceback" not in done.stderr and not output.exists()
    kept = tmp_path / "out.jsonl.parts" / "0000000.jsonl"
    assert not list(kept.parent.glob("*.unfinished")) and len(read_lines(kept)) == scoring.PART_ROWS
    assert run(*arguments).returncode == 0 and [row["n"] for row in read_lines(output)] == [*range(len(rows))]


def test_a_worker_that_is_killed_ends_the_run_with_a_message(table, whole, model, tmp_path):
    output = tmp_path / "out.jsonl"
    arguments = (table[0], "--output", output, "--model", model, "--threads", 2)
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(workers := [pid for pid in children.read_text().split() if _is_worker(pid)]) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(int(workers[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "a worker was killed" in err and "Traceback" not in err, err
    assert run(*arguments).returncode == 0 and output.read_bytes() == whole[0]


def _is_worker(pid):
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_what_does_not_belong_together_is_not_joined(table, model, tmp_path):
    """Parts made with another input or other options."""
    source = write_lines(tmp_path / "in.jsonl", table[1][:700])
    output, arguments = tmp_path / "out.jsonl", ("--model", model, "--threads", 1)
    write_lines(tmp_path / "bad.csv", [])
    done = run(source, tmp_path / "bad.csv", "--output", output, *arguments)
    assert done.returncode == 1 and "bad.csv: no column 'text'" in done.stderr
    done = run(source, "--output", output, *arguments, "--text_column", "body")
    assert done.returncode == 1 and "no row has a column 'body'" in done.stderr
    settings = scoring.fingerprint(str(model), "auto")
    assert settings != scoring.fingerprint(str(model), "none")
    parts = scoring.Parts(output, {"model": "other"})
    scoring.write_part(parts.path(0), b"", "", Summary().state())
    done = run(source, "--output", output, *arguments)
    assert done.returncode == 1 and "another run is writing" in done.stderr
    parts._lock.close()
    done = run(source, "--output", output, *arguments)
    assert done.returncode == 1 and "other options or another model" in done.stderr
    (tmp_path / "out.jsonl.parts" / "settings.json").unlink()
    rows = [Row({"text": "other"}, "other", None)]
    scoring.write_part(parts.path(0), b"", scoring.digest(rows), Summary().state())
    done = run(source, "--output", output, *arguments)
    assert done.returncode == 1 and "the input has changed" in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["in.jsonl", "--output", "out.csv"], "must end in .jsonl or .parquet"),
        (["in.jsonl", "--output", "none/out.jsonl"], "--output: folder none does not exist"),
        (["in.jsonl", "--output", "out.jsonl", "--report", "none/r.html"], "--report: folder none does not exist"),
        (["in.jsonl", "--output", "out.jsonl", "--report", "in.jsonl"], "--report in.jsonl is one of the inputs"),
        (["in.jsonl", "--output", "out.jsonl", "--report", "out.jsonl"], "are the same file"),
        (["in.jsonl", "--output", "out.jsonl", "--device", "foo"], "foo"),
        (["in.jsonl", "--output", "out.jsonl", "--device", "cuda:7"], "no such device"),
        (["in.jsonl", "--output", "in.jsonl"], "is one of the inputs"),
        (["none.jsonl", "--output", "out.jsonl"], "none.jsonl: no such file"),
        (["in.jsonl", "--output", "there.jsonl"], "is there already"),
        (["in.jsonl", "--output", "out.jsonl", "--batch_size", "0"], "--batch_size must be at least 1"),
        (["in.jsonl", "--output", "out.jsonl", "--onnx", "x.onnx"], "x.onnx"),
        (["in.jsonl", "--output", "out.jsonl", "--threads", "0"], "--threads must be at least 1"),
        (["in.jsonl", "--output", "out.jsonl", "--threshold", "nan"], "--threshold must be a number from 0 to 1"),
        (["in.jsonl", "--output", "out.jsonl", "--entity_threshold", "1.5"], "--entity_threshold must be a number"),
    ],
)
def test_wrong_arguments_are_named(arguments, words, model, tmp_path):
    write_lines(tmp_path / "in.jsonl", [{"text": "x"}])
    (tmp_path / "there.jsonl").write_bytes(b"")
    done = run("--model", model, "--threads", 1, *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr, done.stderr
