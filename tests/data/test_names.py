"""`tsn/data/names.py`: which reviews get names, and that every span of a copy points at the same words."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.rows import full, span, words_of
from tsn.data.augmentation import augment
from tsn.data.names import BEHIND_A_TOPIC, LONGEST, SENTENCES, Names, capitals

KINDS = {"ORG": ["Acme", "Banco Azul"], "PER": ["Ana Torres"], "LOC": ["Braga", "São Tomé"]}


def review(text, topics, language="en", **values):
    spans = [span(text, topic, sentiment="negative") for topic in topics]
    return full(text, topics=spans, language=language, **values)


def known(seed=0, language="en"):
    """Names that were seen in rows with entities, and some words in lower case."""
    names = Names(random.Random(seed))
    for kind, words in KINDS.items():
        for word in words:
            names.see(full(word, entities=[span(word, word, label=kind)], language=language))
    names.see(full("the my a soup was cold and battery life is bad", language=language))
    return names


def test_capitals_within_a_sentence():
    def words(text):
        return [text[start:end] for start, end in capitals(text)]

    assert words("The soup in Porto was cold. Never again, says Ana.") == ["Porto", "Ana"]
    assert words("We stayed in Évora; Lisboa was full") == ["Évora", "Lisboa"]
    assert words("I think I'm OK with my TV") == []
    assert words("nothing here, nor HERE") == ["HERE"]


WORDS = ["soup", "the", "cold", "battery life", "don't", "été", "中文", "🚀", "3,5", "(bad)", "!", "is"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=20), st.data(), st.integers(0, 99))
def test_spans_point_at_the_same_words_and_all_names_are_entities(words, data, seed):
    text = " ".join(words)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=6)))
    pairs = [(a, b) for a, b in zip(cuts[::2], cuts[1::2]) if text[a:b].strip()]
    spans = [{"start": a, "end": b, "sentiment": "negative"} for a, b in pairs]
    row = full(text, topics=spans, targets=spans[::-1], sentiment="negative")
    copy = known(seed).put_into(row)
    if not spans:
        assert copy is None
        return
    assert words_of(copy, "topics") == words_of(row, "topics")
    assert words_of(copy, "targets") == words_of(row, "targets")
    entities = sorted((e["start"], e["end"], e["label"]) for e in copy["entities"])
    assert entities and all(a[1] < b[0] for a, b in zip(entities, entities[1:]))
    for start, end, label in entities:
        name = copy["text"][start:end]
        assert name in KINDS[label] or (label, name) == ("ORG", "Ana's")
    assert (copy["sentiment"], copy["entity_types"]) == ("negative", None)
    # Without what was put in, it is the review.
    assert any(
        text == copy["text"][:i] + copy["text"][i + len(copy["text"]) - len(text) :] for i in range(len(text) + 1)
    )


@pytest.mark.parametrize("language", SENTENCES)
def test_each_language_has_its_own_words(language):
    """Every template can be filled, and none is used for another language."""
    assert set(SENTENCES) == set(BEHIND_A_TOPIC)
    names = known(language=language)
    text = "the soup was cold"
    made = {names.put_into(review(text, ["soup"], language))["text"] for _ in range(300)}
    inserted = {t.replace(text, "").strip(". ") for t in made if text in t}
    for word in sorted(sum(KINDS.values(), []), key=len, reverse=True):
        inserted = {t.replace(word, "{}") for t in inserted}
    for template in SENTENCES[language]:
        for kind in KINDS:
            template = template.replace(f"{{{kind}}}", "{}")
        assert template.strip(". ") in inserted, template


@pytest.mark.parametrize(
    "row",
    [
        full("the soup was cold", topics=[span("the soup", "soup", sentiment=None)]),  # a key phrase, no opinion
        full("the soup was cold"),
        review("the soup was cold", ["soup"], entities=[]),  # annotated: there are none
        review("the soup in Porto was cold", ["soup"]),  # a name that nobody annotated
        review("Luigi soup was cold", ["soup"]),  # perhaps a name
        review("it was bad. Luigi soup was cold", ["soup"]),
        review("the soup was cold", ["soup"], "xx"),
        review("the soup was cold", ["soup"], None),
        review("the soup was cold " * LONGEST, ["soup"]),
    ],
)
def test_other_rows_are_left_alone(row):
    assert known().put_into(row) is None


def test_words_seen_in_lower_case_may_begin_a_sentence():
    names = known()
    assert names.put_into(review("Soup was cold. The battery is bad", ["battery"])) is not None


def test_german_nouns_are_no_names_where_they_are_topics():
    names = known(language="de")
    assert names.put_into(review("die Suppe was cold", ["Suppe"], "de")) is not None
    assert names.put_into(review("die Suppe in Braga was cold", ["Suppe"], "de")) is None


def test_names_are_put_between_no_spans_words():
    """Behind a topic that lies in a target nothing is inserted."""
    text = "the soup of the day was cold"
    row = {**review(text, ["soup"]), "targets": [span(text, "soup of the day", sentiment="negative")]}
    for seed in range(40):
        assert words_of(known(seed).put_into(row), "targets") == ["soup of the day"]


def test_without_names_there_is_no_copy():
    names = Names(random.Random(0))
    names.see(full("the soup"))
    assert names.put_into(review("the soup was cold", ["soup"])) is None


def test_only_what_looks_like_a_name_is_drawn():
    names = Names(random.Random(0))
    for odd in ("the company", "ENGLAND", "A", "Acme Corp. of Braga and its many suppliers", "U.S", "x1"):
        names.see(full(odd, entities=[span(odd, odd, label="ORG")]))
    assert sum(names.names.values(), []) == ["U.S"]


def test_share_of_the_reviews_gets_names():
    rows = [full(word, entities=[span(word, word, label=kind)]) for kind, words in KINDS.items() for word in words]
    rows += [review("the soup was cold", ["soup"], row=i) for i in range(400)]
    made = list(augment(rows, names=0.5, seed=1))
    named = [row for row in made[len(rows[:5]) :] if row["entities"]]
    assert 160 < len(named) < 240 and len(made) == len(rows) + len(named)
    assert list(augment(rows, names=0.0)) == rows
    lowered = [row for row in augment(rows, names=1.0, lower_case=1.0) if row["entities"] and row["text"].islower()]
    assert lowered and all(word.islower() for row in lowered for word in words_of(row, "entities"))
