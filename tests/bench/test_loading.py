"""`bench/loading.py`: the ways of use that a checkpoint allows, and what is measured of a process."""

import json

import pytest

from bench.loading import commands, main, measure
from tsn.hub.figures import loading_table
from tsn.hub.sections import loading_section


def test_engines_without_their_file_are_left_out(hub_folder, onnx_folder, openvino_folder, tmp_path):
    others = ["score.py", "analyse.py"]
    assert list(commands(hub_folder, tmp_path)) == ["torch", *others]
    assert list(commands(onnx_folder, tmp_path)) == ["torch", "onnx", "int8", *others]
    ways = commands(openvino_folder, tmp_path)
    assert list(ways) == ["torch", "openvino", *others]
    assert measure(ways["openvino"])["seconds"] > 0


def test_a_process_is_measured():
    lean, heavy = (measure(["-c", f"kept = b'x' * {size}"]) for size in (1, 300_000_000))
    assert lean["peak_bytes"] + 250_000_000 < heavy["peak_bytes"]
    assert 0 < lean["cpu_seconds"] < lean["seconds"] + 1


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="no such thing"):
        measure(["-c", "raise ValueError('no such thing')"])


def test_each_way_answers_and_is_measured(hub_folder, tmp_path, capsys):
    main([str(hub_folder), "--output_dir", str(tmp_path / "results"), "--repeats", "1"])
    record = json.loads((tmp_path / "results" / "loading.json").read_text())
    assert list(record["ways"]) == ["torch", "score.py", "analyse.py"]
    for values in record["ways"].values():
        assert {name: len(found) for name, found in values.items()} == dict.fromkeys(
            ("seconds", "cpu_seconds", "peak_bytes"), 1
        )
        assert min(values["peak_bytes"]) > 100_000_000
    assert capsys.readouterr().out == loading_table(record)
    assert loading_table(record) in loading_section(tmp_path)


def test_the_table_has_medians():
    values = {"seconds": [3.0, 9.0, 4.0], "cpu_seconds": [2.5, 2.0, 8.0], "peak_bytes": [4e8, 5e8, 9e8]}
    *_, int8, score = loading_table({"ways": {"int8": values, "score.py": values}}).splitlines()
    cells = ["4.0", "3.0 to 9.0", "2.5", "500"]
    assert [cell.strip() for cell in int8.split("|")[1:-1]] == ["`pipeline`, int8 ONNX", *cells]
    assert [cell.strip() for cell in score.split("|")[1:-1]] == ["`score.py`", *cells]


def test_a_page_says_where_nothing_was_measured(tmp_path):
    assert "make bench" in loading_section(tmp_path)


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"has no model\.safetensors"):
        main([str(tmp_path)])
