"""Hostile input to the pipeline, the endpoint, the loaders and the command, and time that is linear in its length."""

import json
import re
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from chunking_tsn import _printable, chunk_text, tag_words
from configuration_tsn import TSNConfig
from highlight_tsn import highlighted
from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import ROOT, make_model
from tests.fuzz.pipeline import check
from tsn.data.annotated import _occurrences, read_rows
from tsn.data.readers import _UNDECODED
from tsn.scoring.rows import read_table

CONFIG = TSNConfig()
# Each is repeated: what a pattern that backtracks, or a search that begins anew at every place, would be slow on.
UNITS = [
    *("!?", "a", ".", " ", "\n", "\n ", "a.", ".a", "'", "(", "((a", "\u200d", "\u0301", "a\u200d", "a\u0301", "\xa0"),
    *("。", "。”", "東", "\ud800", "\0", "\x1b[", "a. ", "A. B.", 'a."', ")!", "1,", "word ", "e.g. ", "🙂\u200d"),
]


def seconds(function, text):
    """CPU time, the least of two: what else the machine does can only add to it."""
    times = []
    for _ in range(2):
        begin = time.process_time()
        function(text)
        times.append(time.process_time() - begin)
    return min(times)


def assert_linear(function, short, long):
    """For a text ten times as long, a quadratic step would take a hundred times as long.

    What is between is for the machine's caches. What takes less than a tenth of a second is compared with a tenth: a
    few page faults are as much.
    """
    assert seconds(function, long) <= 25 * max(seconds(function, short), 0.1)


def occurrences(text):
    _occurrences(f"{text} Lima", [("Lima", None)])


def html(text):
    span = {"start": 0, "end": 1, "score": 0.5}
    topic, entity = {**span, "sentiment": "neutral", "sentiment_score": 0.5}, {**span, "entity_group": "PER"}
    highlighted(text, {"topics": [topic], "entities": [entity]})


FUNCTIONS = {
    "chunk_text": lambda text: chunk_text(text, 50, 5),
    "chunk_text of single words": lambda text: chunk_text(text, 1),
    "tag_words": tag_words,
    "replaced surrogates": _printable,
    "occurrences": occurrences,
    "html": html,
    "undecoded cell": _UNDECODED.search,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ten_megabytes_take_ten_times_as_long_as_one(name):
    short, long = ("".join(unit * (size // len(UNITS) // len(unit)) for unit in UNITS) for size in (10**6, 10**7))
    assert_linear(FUNCTIONS[name], short, long)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["!?", "a", "word "])
def test_the_whole_way_of_a_text_takes_linear_time(pipe, unit):
    def analyse(text):
        check(text, pipe(text, batch_size=32))

    short, long = (unit * (size // len(unit)) for size in (5000, 50_000))
    assert_linear(analyse, short, long)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "\ud800",
            "a\udfffb",
            "\udc80" * 300,
            "\0",
            "Ana\0Torres",
            "".join(map(chr, range(32))),
            "\x1b[31mred\x1b[0m",
        ),
        *("\u202eevil\u202c", "\ufeff", "\ufffe\uffff", "\U0010ffff", "a" + "\u0301" * 5000, "\u200d" * 5000),
        *(
            "x" * 100_000,
            "!?" * 20_000,
            "." * 20_000,
            " " * 100_000,
            "((" * 9_000,
            "a.b." * 9_000,
            "İ" * 3000,
            "🙂" * 3000,
        ),
    ],
    ids=range(21),
)
def test_the_pipeline_on_texts_that_nobody_writes(pipe, text):
    check(text, pipe(text, batch_size=32))
    padded = pipe(f"Ana Torres. {text} Lima.", batch_size=32)
    check(f"Ana Torres. {text} Lima.", padded)
    assert padded["sentiment"]["label"] is not None


@pytest.mark.parametrize(
    "given", [None, 5, 1.5, True, b"text", {"text": "a"}, [None], ["a", 5], [["a"]], [b"a"], object()]
)
def test_what_is_no_text_is_named(pipe, given):
    with pytest.raises(TypeError, match="TSN analyses (strings; input [01] is|a string or several, not) \\w+"):
        pipe(given)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_model_whose_output_is_no_number_says_so(tokenizer, broken):
    model = make_model("bert", len(tokenizer))
    with torch.no_grad():
        model.sentiment_head.bias[0] = broken
    with pytest.raises(ValueError, match="sentiment_logits are not finite"):
        TSNPipeline(model, tokenizer)("Ana Torres of Lima.")


# Files


def parquet(path):
    pq.write_table(pa.table({"text": [f"Text {i} of Ana Torres in Lima." for i in range(300)]}), path)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_parquet_file_is_named(share, tmp_path):
    path = tmp_path / "rows.parquet"
    content = parquet(path)
    path.write_bytes(content[: int(share * len(content))])
    for read in (lambda: read_rows(path, CONFIG, on_invalid=lambda *_: None), lambda: read_table(path)):
        with pytest.raises(ValueError, match=re.escape(f"{path}: not a readable Parquet file")):
            list(read())


def test_a_parquet_column_whose_name_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["Fine."], "other": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"other", b"oth\xd1r"))
    for read in (lambda: read_rows(path, CONFIG), lambda: read_table(path)):
        with pytest.raises(ValueError, match=re.escape(f"{path}: not a readable Parquet file")):
            list(read())


def test_ragged_rows_are_told_apart(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,topics\none,[]\ntwo\nthree,[],more\n\nfour,\n")
    bad = []
    good = [row["text"] for row in read_rows(path, CONFIG, on_invalid=lambda error, _: bad.append(str(error)))]
    assert good == ["one", "four"] and len(bad) == 2 and all(f"{path}, row {i}" in bad[i - 2] for i in (2, 3))
    rows = list(read_table(path))
    assert [row.text for row in rows] == ["one", None, None, "four"]
    assert [row.error for row in rows][1:3] == [
        "1 cell under a header of 2 columns",
        "3 cells under a header of 2 columns: ['more']",
    ]


def command(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "score.py"), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.mark.slow
def test_the_command_on_a_truncated_file_and_an_absurd_model(hub_folder, tmp_path):
    path, whole, output = tmp_path / "rows.parquet", tmp_path / "whole.txt", tmp_path / "out.jsonl"
    path.write_bytes(parquet(path)[:-9])
    done = command(path, "--output", output, "--model", hub_folder, "--threads", 1)
    assert done.returncode == 1 and f"{path}: not a readable Parquet file" in done.stderr, done.stderr
    whole.write_text("Ana Torres of Lima.\n")
    model, trace = tmp_path / "model", tmp_path / "code-was-run"
    model.mkdir()
    for file in hub_folder.iterdir():
        if file.suffix != ".py":
            (model / file.name).write_bytes(file.read_bytes())
    (model / "trap.py").write_text(f"open({str(trace)!r}, 'w')\nclass Trap: pass\n")
    values = json.loads((model / "config.json").read_text())
    traps = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "trap.Trap")
    values["backbone_config"] |= {"trust_remote_code": True, "auto_map": traps, "_name_or_path": str(model)}
    values |= {"trust_remote_code": True, "auto_map": traps, "attn_implementation": "trap/kernel"}
    (model / "config.json").write_text(json.dumps(values))
    done = command(whole, "--output", output, "--model", model, "--threads", 1)
    assert done.returncode == 0 and not trace.exists(), done.stderr
    assert json.loads(output.read_text())["text"] == "Ana Torres of Lima."
    output.unlink()
    values["backbone_config"]["num_hidden_layers"] = 10**9
    (model / "config.json").write_text(json.dumps(values))
    done = command(whole, "--output", output, "--model", model, "--threads", 1)
    assert done.returncode == 1 and "num_hidden_layers must be at most 1000" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../../x.onnx", "/etc/x.onnx", "..", "a/b.onnx", "", "x.onnx\0", 5, None])
def test_an_onnx_file_lies_in_its_folder(hub_folder, name):
    with pytest.raises((ValueError, OSError), match="onnx_file must be the name|could not be loaded"):
        TSNModel.from_pretrained(hub_folder, onnx_file=name)
