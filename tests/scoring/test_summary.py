"""`tsn/scoring/summary.py`: parts add up however the rows are split, and the counts stay small."""

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tsn.scoring import summary
from tsn.scoring.summary import Summary

KINDS = ("PER", "LOC")
words = st.sampled_from(["Battery  life", "battery life", "screen", "Ana", "Lima"])
about_it = {"sentiment": st.sampled_from(["negative", "positive"]), "sentiment_score": st.floats(0.3, 1)}
topics = st.fixed_dictionaries({"word": words, **about_it})
rows = st.fixed_dictionaries(
    {
        "topics": st.lists(topics, max_size=3),
        "entities": st.lists(
            st.fixed_dictionaries(
                {
                    "word": words,
                    "entity_group": st.sampled_from(KINDS),
                    "score": st.sampled_from([0.4, 0.5, 1]),
                    **about_it,
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
    by_kind = {
        kind: sum(n for (k, name, _), n in total.entities.items() if (k, name) == (kind, "Ana")) for kind in KINDS
    }
    assert max(by_kind.values()) <= len(named) <= sum(by_kind.values())
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
    unhappy = [(topic, n) for (topic,), n, _ in summary.unhappy_topics()]
    assert unhappy == [("c", 10), ("b", 150), ("d", 2), ("a", 1)]
    assert summary.unhappy_topics()[1][2] == {"negative": 90, "positive": 60}
    assert [topic for (topic,), *_ in summary.top_topics()] == ["f", "b", "e", "c", "d", "a"]
    text = summary.tables()
    assert "unhappy about" in text and text.index("| c ") < text.rindex("| b ")


def test_a_text_counts_once_for_a_topic():
    summary = Summary()
    summary.count(about("Screen", "negative", "positive", "positive"))  # the first is the surest
    assert summary.topics == {("screen", "negative"): 1}


def mentioning(*mentions):
    """A text that mentions people, each with a sentiment."""
    entities = [
        {"word": word, "entity_group": "PER", "score": 0.9, "sentiment": sentiment, "sentiment_score": 0.9 - i / 10}
        for i, (word, sentiment) in enumerate(mentions)
    ]
    return {"topics": [], "entities": entities, "sentiment": "neutral", "error": None}


def test_who_is_spoken_of_well_and_who_badly():
    """Bo is mostly neutral, Cy as often good as bad. Bounds by hand: 20 of 21 (0.773), 2 of 2 (0.342)."""
    summary = Summary()
    counts = {"Ana": (20, 0, 1), "Bo": (4, 9, 1), "Cy": (5, 0, 5), "Di": (0, 1, 7), "Eva": (2, 0, 0), "Flo": (0, 0, 3)}
    for name, (good, neutral, bad) in counts.items():
        for sentiment in ["positive"] * good + ["neutral"] * neutral + ["negative"] * bad:
            summary.count(mentioning((name, sentiment)))
    assert [(*who, n) for who, n, _ in summary.entities_spoken_of("positive")] == [
        ("PER", "Ana", 21),
        ("PER", "Eva", 2),
    ]
    assert [(*who, n) for who, n, _ in summary.entities_spoken_of("negative")] == [("PER", "Di", 8), ("PER", "Flo", 3)]
    assert summary.entities_spoken_of("positive")[0][2] == {"positive": 20, "negative": 1}
    tables = summary.tables().split("\n\n")
    [good] = [table for table in tables if "spoken of well" in table]
    assert good.splitlines()[0].split() == "| type | spoken of well | texts | negative | neutral | positive |".split()
    assert good.splitlines()[2].split() == "| PER | Ana | 21 | 5% | 0% | 95% |".split()
    assert [line.split()[3] for table in tables if "badly" in table for line in table.splitlines()[2:]] == [
        "Di",
        "Flo",
    ]


def test_a_text_counts_once_for_an_entity_of_each_type():
    summary = Summary()
    summary.count(mentioning(("Ana", "negative"), ("Ana", "positive"), ("Bo", "positive")))  # the first is the surest
    assert summary.entities == {("PER", "Ana", "negative"): 1, ("PER", "Bo", "positive"): 1}


def test_texts_without_a_word_are_in_no_share():
    summary = Summary()
    for sentiment in ("positive", "positive", "negative", None, None, None):
        summary.count({"topics": [], "entities": [], "sentiment": sentiment, "error": None})
    assert summary.shares == [("negative", 1, 1 / 3), ("positive", 2, 2 / 3)] and summary.wordless == 3
    text = summary.tables()
    assert text.startswith("6 rows, 0 of them could not be scored. Texts without a word, not counted below: 3.\n")
    assert "33.3%" in text and "66.7%" in text and "none" not in text.casefold()


def test_it_stays_small(monkeypatch):
    monkeypatch.setattr(summary, "KEPT", 10)
    total = Summary()
    for i in range(500):
        part = Summary()
        for word in ("often", f"rare {i}"):
            part.count(about(word, "positive"))
        total.add(part)
    assert len(total.topics) <= 20 and total.topics["often", "positive"] == 500 and total.rows == 1000
