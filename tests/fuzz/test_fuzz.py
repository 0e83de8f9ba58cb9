"""A few hundred examples of each property of `fuzz/`; `make fuzz` searches for hours."""

import importlib
import json

import pytest
from hypothesis import settings

from tests.fuzz import TARGETS
from tests.fuzz.__main__ import PAGE, RECORD, with_table

MOST = {"pipeline": 60, "command": 30}  # what takes longer than a millisecond


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_property(target):
    settings(max_examples=MOST.get(target, 300))(importlib.import_module(f"tests.fuzz.{target}").holds)()


def test_the_docs_show_what_is_recorded():
    runs = json.loads(RECORD.read_text("utf-8"))
    assert with_table(PAGE.read_text("utf-8"), runs) == PAGE.read_text("utf-8")
    assert {run["target"] for run in runs} <= set(TARGETS)
