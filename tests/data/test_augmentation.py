"""`tsn/data/augmentation.py`: what is made of which rows, and that every span points at the same words."""

import random
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from configuration_tsn import TSNConfig
from tests.conftest import make_tokenizer
from tests.data.rows import full, span, words_of
from tsn.data.augmentation import (
    BUT,
    CONTRAST,
    LONGEST_HALF,
    augment,
    join_opposites,
    lower_case_topics,
    lower_cased,
    polarity_of,
)
from tsn.data.features import IGNORED, rows_to_features

SPANS = ("topics", "targets", "entities")


def is_mark(text, i):
    """Punctuation that is not within a word, said another way than the module says it."""
    if text[i] in "@#&%_" or unicodedata.category(text[i])[0] != "P":
        return False
    inside = len(text[max(i - 1, 0) : i + 2]) == 3 and text[i - 1].isalnum() and text[i + 1].isalnum()
    return not inside


def spoken(text, start, end):
    """The words of a span, in lower case and without loose marks."""
    kept = (" " if is_mark(text, i) else text[i] for i in range(start, end))
    return "".join(c if len(c.lower()) > 1 else c.lower() for c in kept).split()


PIECES = ["Good", "FOOD", "İzmir", "don't", "U.S.", "...", "-", "a", "#Tag", "$5", "«Été»", "3,5", "ΟΔΟΣ", "(x)", "ẞ"]


@st.composite
def rows(draw, begin="", **values):
    """A text of pieces with or without spaces between, and spans of any of its characters that are no space."""
    text = begin + "".join(draw(st.lists(st.sampled_from([*PIECES, " ", " ", "\n"]), min_size=1, max_size=15)))
    row = full(text, **values)
    for name, label in (("topics", {"sentiment": None}), ("targets", {"sentiment": "negative"}), ("entities", {})):
        cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
        pairs = [(a, b) for a, b in zip(cuts[::2], cuts[1::2]) if text[a:b].strip()]
        row[name] = draw(st.sampled_from([None, [{"start": a, "end": b, **label} for a, b in pairs]]))
    return row


@given(rows())
def test_a_lower_cased_copy_keeps_every_offset(row):
    copy = lower_cased(row)
    assert len(copy["text"]) == len(row["text"]) and {k: v for k, v in copy.items() if k != "text"} == {
        k: v for k, v in row.items() if k != "text"
    }
    for name in SPANS:
        lowered = ["".join(c if len(c.lower()) > 1 else c.lower() for c in word) for word in words_of(row, name)]
        assert words_of(copy, name) == lowered


@given(rows())
def test_a_copy_without_punctuation_has_the_same_words_and_spans(row):
    text, copy = row["text"], lower_cased(row, punctuation=False)
    nothing_left = [s for name in SPANS for s in row[name] or [] if not spoken(text, s["start"], s["end"])]
    assert (copy is None) == bool(nothing_left)
    assume(copy)
    assert copy["text"].split() == spoken(text, 0, len(text)), "no mark is left, and no two words are glued"
    for name in SPANS:
        assert (copy[name] is None) == (row[name] is None)
        for old, new in zip(row[name] or [], copy[name] or [], strict=True):
            word = copy["text"][new["start"] : new["end"]]
            assert word.split() == spoken(text, old["start"], old["end"]) and word == word.strip()
            assert {k: v for k, v in old.items() if k not in ("start", "end")}.items() <= new.items()


def test_copies_by_example():
    text = "The FOOD at Joe's was good...but Wi-Fi, at 3.5 Mbit, failed!"
    row = full(text, topics=[span(text, "FOOD"), span(text, "Wi-Fi,")], entities=[span(text, "Joe's", label="ORG")])
    copy = lower_cased(row, punctuation=False)
    assert copy["text"] == "the food at joe's was good but wi-fi at 3.5 mbit failed"
    assert words_of(copy, "topics") == ["food", "wi-fi"] and words_of(copy, "entities") == ["joe's"]
    assert lower_cased(full("So ... what", topics=[{"start": 3, "end": 6}]), punctuation=False) is None


# Contrast


@st.composite
def halves(draw):
    """Two rows of one language and opposite polarity; spans may begin and end in spaces and marks."""
    language = draw(st.sampled_from(sorted(BUT)))
    pair = []
    for polarity in draw(st.permutations(["negative", "positive"])):
        begin = draw(st.sampled_from(["It is ", "  So, it ", "İ is "]))
        row = draw(rows(begin, sentiment=draw(st.sampled_from([None, polarity])), language=language))
        for name in ("topics", "targets"):
            row[name] = row[name] and [{**s, "sentiment": polarity} for s in row[name]]
        row["entities"] = row["entities"] and [{**s, "label": "ORG"} for s in row["entities"]]
        row["entity_types"] = draw(st.sampled_from([None, ["ORG"]]))
        if not row["topics"] and not row["targets"]:
            row["sentiment"] = polarity
        assert polarity_of(row) == polarity
        pair.append(row)
    return pair


@given(halves())
def test_spans_of_joined_rows_point_at_the_same_words(pair):
    first, second = pair
    joined = join_opposites(first, second)
    assert joined["source"] == CONTRAST and joined["sentiment"] is None and joined["language"] == first["language"]
    assert f", {BUT[first['language']]} " in joined["text"] and joined["id"] is None
    for name in ("topics", "entities"):
        both = first[name] is not None and second[name] is not None
        if name == "entities" and first["entity_types"] != second["entity_types"]:
            both = False
        assert (joined[name] is not None) == both
        if both:
            old = [(row, s) for row in pair for s in row[name]]
            for (row, before), after in zip(old, joined[name], strict=True):
                word = row["text"][before["start"] : before["end"]]
                there = joined["text"][after["start"] : after["end"]]
                # The second half begins in lower case.
                assert there == word or (row is second and there.lower() == word.lower())
    border = joined["text"].index(f", {BUT[first['language']]} ", max([0, *(s["end"] for s in _spans(first))]))
    labelled = [*joined["targets"], *(joined["topics"] or [])]
    for row, own in (
        (first, [s for s in labelled if s["end"] <= border]),
        (second, [s for s in labelled if s["start"] > border]),
    ):
        assert {s["sentiment"] for s in own} == {polarity_of(row)}, "each half has its own sentiment somewhere"


def _spans(row):
    return [s for name in SPANS for s in row[name] or []]


def test_joined_rows_by_example():
    text, other = "The food was great! ", " Service is slow."
    first = full(text, topics=[span(text, "food", sentiment="positive")])
    second = full(other, topics=[span(other, "Service", sentiment="negative")])
    joined = join_opposites(first, second)
    assert joined["text"] == "The food was great, but service is slow."
    assert words_of(joined, "topics") == ["food", "service"] and not joined["targets"]
    plain = join_opposites(full("Super Essen.", sentiment="positive", language="de"),
                           full("Service war langsam", sentiment="negative", language="de"))  # fmt: skip
    assert plain["text"] == "Super Essen, aber Service war langsam", "German nouns keep their capital"
    assert words_of(plain, "targets") == ["Super Essen", "Service war langsam"], "a half without spans is a target"
    assert [s["sentiment"] for s in plain["targets"]] == ["positive", "negative"] and plain["topics"] is None
    named = join_opposites(first, {**second, "entities": [span(other, "Service", label="ORG")]})
    assert named["text"].endswith("but Service is slow."), "a name keeps its capital"


def test_halves_annotated_otherwise():
    """Topics are annotated where both halves are; entities, where of the same types; nothing else is claimed."""
    text, other = "The food was great", "Joe was rude"
    first = full(text, topics=[span(text, "food", sentiment="positive")], entities=[], entity_types=["PER"])
    second = full(other, sentiment="negative", entities=[span(other, "Joe", label="PER")])
    joined = join_opposites(first, second)
    assert joined["topics"] is None and joined["entities"] is None and joined["entity_types"] is None
    assert words_of(joined, "targets") == ["food", "Joe was rude"]
    same = join_opposites(first, {**second, "entity_types": ["PER"]})
    assert words_of(same, "entities") == ["Joe"] and same["entity_types"] == ["PER"]


@pytest.mark.parametrize(
    "values, polarity",
    [
        ({"sentiment": "positive"}, "positive"),
        ({"sentiment": "neutral"}, None),
        ({}, None),
        ({"topics": [{"sentiment": "negative"}]}, "negative"),
        ({"topics": [{"sentiment": "negative"}], "sentiment": "positive"}, None),
        ({"topics": [{"sentiment": "negative"}, {"sentiment": None}]}, None),
        ({"topics": [{"sentiment": "negative"}, {"sentiment": "neutral"}]}, None),
        ({"topics": [{"sentiment": "negative"}], "targets": [{"sentiment": "positive"}]}, None),
        ({"topics": [], "sentiment": "negative"}, "negative"),
        ({"targets": [{"sentiment": "negative"}]}, "negative"),
        ({"sentiment": "positive", "text": "Good"}, None),
        ({"sentiment": "positive", "text": "so " * (LONGEST_HALF + 1)}, None),
    ],
)
def test_polarity(values, polarity):
    assert polarity_of({**full("It is so"), **values}) == polarity


# The whole


def many(count):
    rng = random.Random(5)
    for i in range(count):
        yield full(f"Row {i} is So", sentiment=rng.choice(["negative", "positive"]), source=f"s{i % 3}")


def test_shares_of_rows():
    made = list(augment(many(600), lower_case=0.25, contrast=0.5, seed=3))
    joined = [row for row in made if row["source"] == CONTRAST and not row["text"].islower()]
    assert 250 <= len(joined) <= 350, "half of them"
    lowered = [row for row in made if row["text"].islower()]
    assert 180 <= len(lowered) <= 270, "a quarter of rows and joined rows"
    kept = [row for row in made if row["source"] != CONTRAST and not row["text"].islower()]
    assert kept == list(many(600)), "every row is there as it was, in its order"
    for row in joined:
        numbers = [int(word) for word in row["text"].split() if word.isdecimal()]
        polarities = [list(many(600))[n]["sentiment"] for n in numbers[:2]]
        assert sorted(polarities) == ["negative", "positive"]
        assert [s["sentiment"] for s in row["targets"]] == polarities


def test_augmentation_is_the_seeds_alone():
    options = {"lower_case": 0.3, "contrast": 0.3, "common_nouns": True}
    one, again, other = (list(augment(many(80), **options, seed=seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert list(augment(many(80))) == list(many(80)), "nothing is made unless asked for"


def test_only_rows_of_one_known_language_are_joined():
    rows = [full("It is so", sentiment=s, language=x) for s in ("positive", "negative") for x in ("en", "xx", None)]
    joined = [row for row in augment(rows, contrast=1.0) if row["source"] == CONTRAST]
    assert [row["language"] for row in joined] == ["en"]
    mixed = [full("It is so", sentiment="positive"), full("Das ist so", sentiment="negative", language="de")]
    assert list(augment(mixed, contrast=1.0)) == mixed


# Common nouns


def test_topics_in_lower_case_teach_that_they_are_no_entities():
    text = "The battery of my Macbook and Siri is bad"
    topics = [span(text, "battery"), span(text, "Macbook"), span(text, "Siri")]
    (row,) = augment([full(text, topics=topics)], common_nouns=True)
    assert words_of(row, "common_nouns") == ["battery"]
    config, tokenizer = TSNConfig(), make_tokenizer()
    (feature,) = rows_to_features([row], tokenizer, config)
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    labelled = {text[a : a + 7]: tag for (a, _), tag in zip(offsets, feature["ner_labels"]) if tag != IGNORED}
    assert labelled == {"battery": config.ner_labels.index("O")}
    assert all(feature["annotated_entity_types"])


def test_common_nouns_of_other_rows_are_left_alone():
    text = "the battery of my laptop"
    assert lower_case_topics(full(text, topics=[span(text, "battery")])) == [], "no capitals: nothing is known"
    row = full("The battery", topics=[span("The battery", "battery")], entities=[])
    assert list(augment([row], common_nouns=True)) == [row], "its entities are annotated"
    assert "common_nouns" not in next(augment([{**row, "entities": None}]))


def test_common_nouns_follow_into_copies_and_joined_rows():
    text, other = "The battery is bad", "My screen is good"
    rows = [
        full(text, topics=[span(text, "battery", sentiment="negative")]),
        full(other, topics=[span(other, "screen", sentiment="positive")]),
    ]
    made = list(augment(rows, contrast=1.0, lower_case=1.0, common_nouns=True))
    assert len(made) == 6
    joined = [row for row in made if row["source"] == CONTRAST]
    assert [sorted(words_of(row, "common_nouns")) for row in joined] == [["battery", "screen"]] * 2
    assert words_of(made[1], "common_nouns") == ["battery"] and made[1]["text"].islower()
