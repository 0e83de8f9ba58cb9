"""`pipeline_tsn.py`: any texts, alone and together, by a tiny model."""

import math

from hypothesis import given
from hypothesis import strategies as st

from pipeline_tsn import TSNPipeline
from tests.conftest import make_byte_tokenizer, make_model, make_tokenizer
from tests.fuzz.texts import hostile_texts

PIPES = [TSNPipeline(make_model("bert", len(t)), t) for t in (make_tokenizer(), make_byte_tokenizer())]
LABELS = {"negative", "neutral", "positive"}


def check(text, result):
    """What holds of every answer."""
    for spans in (result["topics"], result["entities"]):
        end = 0
        for span in spans:
            assert end <= span["start"] < span["end"] <= len(text)  # in text order, none on another
            assert text[span["start"] : span["end"]] == span["word"] and span["word"].strip()
            assert 0 <= span["score"] <= 1 + 1e-6
            end = span["end"]
    for topic in result["topics"]:
        assert topic["sentiment"] in LABELS and 1 / len(LABELS) - 1e-6 <= topic["sentiment_score"] <= 1 + 1e-6
    sentiment = result["sentiment"]
    assert set(sentiment["scores"]) == LABELS
    assert all(0 <= value <= 1 + 1e-6 for value in sentiment["scores"].values())
    if sentiment["label"] is None:
        assert not result["topics"] and not result["entities"] and not any(sentiment["scores"].values())
    else:
        assert sentiment["score"] == sentiment["scores"][sentiment["label"]] == max(sentiment["scores"].values())
    if not text.strip():
        assert sentiment["label"] is None


def alike(one, other):
    """The same answer, but for what a sum in another order changes in a score."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return math.isclose(one, other, abs_tol=1e-4) if isinstance(one, float) else one == other


@given(
    pipe=st.sampled_from(PIPES),
    texts=st.lists(hostile_texts.map(lambda text: text[:300]), min_size=1, max_size=3),
    max_words=st.integers(1, 60),
    overlap=st.integers(0, 59),
    batch_size=st.integers(1, 9),
    aggregation=st.sampled_from(["max", "mean", "vote"]),
)
def holds(pipe, texts, max_words, overlap, batch_size, aggregation):
    options = {"max_words": max_words, "overlap_words": overlap % max_words, "aggregation": aggregation}
    together = pipe(texts, batch_size=batch_size, **options)
    assert len(together) == len(texts)
    for text, result in zip(texts, together):
        check(text, result)
        assert alike(result, pipe(text, **options))
