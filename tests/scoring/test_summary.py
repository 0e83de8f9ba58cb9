"""`tsn/scoring/summary.py`: adds up in any split, and stays small."""

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tsn.scoring import summary
from tsn.scoring.summary import Summary

words = st.sampled_from(["Battery  life", "battery life", "screen", "Ana", "Lima"])
topics = st.fixed_dictionaries(
    {
        "word": words,
        "sentiment": st.sampled_from(["negative", "positive"]),
        "sentiment_score": st.floats(0.3, 1),
    }
)
rows = st.fixed_dictionaries(
    {
        "topics": st.lists(topics, max_size=3),
        "entities": st.lists(
            st.fixed_dictionaries(
                {
                    "word": words,
                    "entity_group": st.sampled_from(["PER", "LOC"]),
                    "score": st.sampled_from([0.4, 0.5, 1]),
                }
            ),
            max_size=3,
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
    named = [r for r in scored if any(e["word"] == "Ana" and e["score"] > 0.45 for e in r["entities"])]
    kinds = {kind for r in named for kind in ("PER", "LOC")}
    assert max((total.entities[kind, "Ana"] for kind in kinds), default=0) <= len(named)
    assert sum(total.entities[kind, "Ana"] for kind in ("PER", "LOC")) >= len(named)
    tables = total.tables()
    assert f"{len(results):,} rows" in tables and ("\n| battery life " in tables) == bool(lives)


def about(word, *sentiments):
    topics = [{"word": word, "sentiment": s, "sentiment_score": 0.9 - i / 10} for i, s in enumerate(sentiments)]
    return {"topics": topics, "entities": [], "sentiment": "positive", "error": None}


def test_topics_that_people_are_unhappy_about():
    """By Wilson's bound, worked out by hand: 9 of 10 (0.596), 90 of 150 (0.520), 2 of 2 (0.342), 1 of 1 (0.207)."""
    summary = Summary()
    for word, negative, others in (("a", 1, 0), ("b", 90, 60), ("c", 9, 1), ("d", 2, 0), ("e", 50, 50), ("f", 0, 300)):
        for i in range(negative + others):
            summary.count(about(word, "negative" if i < negative else "positive"))
    assert [(topic, n) for topic, n, _ in summary.unhappy_topics()] == [("c", 10), ("b", 150), ("d", 2), ("a", 1)]
    assert summary.unhappy_topics()[1][2] == {"negative": 90, "positive": 60}
    assert [topic for topic, *_ in summary.top_topics()] == ["f", "b", "e", "c", "d", "a"]
    text = summary.tables()
    assert "unhappy about" in text and text.index("| c ") < text.rindex("| b ")


def test_a_text_counts_once_for_a_topic():
    summary = Summary()
    summary.count(about("Screen", "negative", "positive", "positive"))  # the first is the surest
    assert summary.topics == {("screen", "negative"): 1}


def test_it_stays_small(monkeypatch):
    monkeypatch.setattr(summary, "KEPT", 10)
    total = Summary()
    for i in range(500):
        part = Summary()
        for word in ("often", f"rare {i}"):
            part.count(about(word, "positive"))
        total.add(part)
    assert len(total.topics) <= 20 and total.topics["often", "positive"] == 500 and total.rows == 1000
