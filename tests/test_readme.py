"""The README's figures are those of the recorded results: a number typed by hand, or left behind, fails here."""

import pytest

from bench.readme import ROOT, fill, sections


def test_readme_holds_what_was_recorded():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert fill(text, sections()) == text, "run make readme"


def test_fill_replaces_what_stands_between_markers_and_nothing_else():
    text = "a\n<!-- x -->\nold\nlines\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    filled = "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n<!-- y -->\n2\n<!-- /y -->\n"
    assert fill(text, {"x": "new\n", "y": "2\n"}) == filled == fill(filled, {"x": "new\n", "y": "2\n"})
    with pytest.raises(ValueError, match="no <!-- z -->"):
        fill(text, {"z": ""})
