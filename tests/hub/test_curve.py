"""The sections of the curve: filled from its record, and nothing but a remark where there is none."""

import json

from tests.bench.test_curve import example_record
from tsn.hub.curve import tables
from tsn.hub.sections import SECTIONS


def test_a_curve_that_was_not_measured_is_left_out(tmp_path):
    assert "not been measured" in SECTIONS["curve"](tmp_path)
    assert SECTIONS["curve-picture"](tmp_path) == ""


def test_a_curve_that_was_measured_is_shown(tmp_path):
    from bench.curve_figures import add_figures

    record = example_record()
    add_figures(record)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "curve.json").write_text(json.dumps(record), "utf-8")
    page = SECTIONS["curve"](tmp_path)
    assert tables(record) in page and "](../results/curve.png)" in page
    assert "](results/curve.png)" in SECTIONS["curve-picture"](tmp_path)
