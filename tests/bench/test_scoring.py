"""`bench/scoring.py`: `score.py` and the pipeline do the same work in turn."""

from bench import scoring


def test_the_pipeline_and_the_command_take_turns(onnx_folder, tmp_path, monkeypatch):
    pipe = scoring.scoring.load(str(onnx_folder), "auto", 1, "cpu")
    monkeypatch.setattr(scoring.scoring, "load", lambda *_, **__: pipe)
    monkeypatch.setattr(scoring, "TURN_ROWS", 8)
    engine, turns = scoring.beside_the_pipeline(tmp_path)
    assert engine == "ONNX" and len(turns) == scoring.TURNS
    assert all(turn["pipeline"] > 0 and turn["score"] > 0 for turn in turns)
