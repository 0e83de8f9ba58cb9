"""`summary_tsn.py`: adds up in any split, and stays small."""

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

import summary_tsn
from summary_tsn import Summary

words = st.sampled_from(["Battery  life", "battery life", "screen", "Ana", "Lima"])
rows = st.fixed_dictionaries(
    {
        "topics": st.lists(st.fixed_dictionaries({"word": words}), max_size=3),
        "entities": st.lists(
            st.fixed_dictionaries({"word": words, "entity_group": st.sampled_from(["PER", "LOC"])}), max_size=3
        ),
        "sentiment": st.sampled_from(["negative", "positive", None]),
        "error": st.sampled_from([None, None, None, "text is null"]),
    }
)


@given(st.lists(rows, max_size=12), st.integers(1, 5))
def test_parts_add_up(results, size):
    whole, total = Summary(), Summary()
    for result in results:
        whole.count(result)
    for start in range(0, len(results), size):
        part = Summary()
        for result in results[start : start + size]:
            part.count(result)
        total.add(Summary(json.loads(json.dumps(part.state()))))
    assert total.state() == whole.state()
    scored = [result for result in results if result["error"] is None]
    assert (total.rows, total.errors) == (len(results), len(results) - len(scored))
    assert total.sentiments == Counter(result["sentiment"] for result in scored)
    lives = [r for r in scored if any(t["word"].lower().split() == ["battery", "life"] for t in r["topics"])]
    assert sum(n for (topic, _), n in total.topics.items() if topic == "battery life") == len(lives)
    tables = total.tables()
    assert f"{len(results):,} rows" in tables and ("battery life" in tables) == bool(lives)


def test_it_stays_small(monkeypatch):
    monkeypatch.setattr(summary_tsn, "KEPT", 10)
    total = Summary()
    for i in range(500):
        part = Summary()
        for word in ("often", f"rare {i}"):
            part.count({"topics": [{"word": word}], "entities": [], "sentiment": "positive", "error": None})
        total.add(part)
    assert len(total.topics) <= 20 and total.topics["often", "positive"] == 500 and total.rows == 1000
