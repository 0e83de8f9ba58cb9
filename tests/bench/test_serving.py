"""`bench/serving.py`: callers, a lone caller and a document on a real server, beside `score.py` on the same texts."""

import json
import sys

import pytest

pytest.importorskip("fastapi", reason="pip install -r requirements/serve.txt")
pytest.importorskip("httptools", reason="pip install -r requirements/serve.txt")
pytest.importorskip("prometheus_client", reason="pip install -r requirements/serve.txt")
pytest.importorskip("matplotlib", reason="pip install -r requirements/bench.txt")

from bench import serving


@pytest.mark.slow
def test_the_figures_are_of_answers_that_came(onnx_folder, tmp_path, monkeypatch, capsys):
    for name, value in {"TURNS": 1, "LONE_TEXTS": 10, "DOCUMENT_WORDS": 30}.items():
        monkeypatch.setattr(serving, name, value)
    options = ["--model", str(onnx_folder), "--workers", "1", "--callers", "4", "--texts", "60"]
    monkeypatch.setattr(sys, "argv", ["serving", *options, "--output_dir", str(tmp_path)])
    serving.main()
    record = json.loads((tmp_path / "serving.json").read_text("utf-8"))
    [turn] = record["turns"]
    assert record["engine"] == "ONNX"
    assert turn["many"]["texts"] == 45  # a quarter of the texts is timed in score.py alone
    assert turn["many"]["texts_per_second"] / turn["score_per_second"] == pytest.approx(record["of_score"]["median"])
    assert record["lone"]["texts"] == 10
    assert 0 < record["lone"]["median_ms"] <= record["lone"]["p99_ms"] <= record["lone"]["max_ms"]
    assert record["lone_beside_document"]["texts"] >= 1  # however short the document is
    assert (tmp_path / "serving.png").stat().st_size
    assert "of_score" in capsys.readouterr().out
