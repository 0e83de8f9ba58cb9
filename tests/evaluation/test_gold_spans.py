"""`gold_spans.py`: a span is read as the pipeline reads a topic's, in texts of any length and any script."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, make_model
from tests.evaluation.metric_rows import quick
from tsn.evaluation.gold_spans import read_gold_spans

LONG = " ".join(TEXTS) * 3  # of several chunks


@pytest.fixture(scope="module", params=[True, False], ids=["own head", "text's head"])
def spans_pipe(request, tokenizer):
    """With sentiments that differ from word to word."""
    model = make_model("bert", len(tokenizer), topic_sentiment_head=request.param, pooling="mean")
    if request.param:
        torch.nn.init.normal_(model.topic_sentiment_head.weight, std=1.0)
    return TSNPipeline(model, tokenizer)


@given(texts=st.lists(st.sampled_from([*TEXTS, LONG]) | st.text(max_size=30), max_size=4), batch=st.integers(1, 5))
@quick
def test_found_topics_are_read_as_the_pipeline_reads_them(spans_pipe, texts, batch):
    results = spans_pipe(texts, batch_size=batch) if texts else []
    rows = [{"text": text, "topics": found["topics"], "targets": None} for text, found in zip(texts, results)]
    readings = read_gold_spans(spans_pipe, rows, batch)
    expected = [[topic["sentiment"] for topic in found["topics"]] for found in results]
    assert [reading["topics"] for reading in readings] == expected
    assert all(reading["targets"] == [] for reading in readings)


@given(st.data(), st.sampled_from(TEXTS))
@quick
def test_any_span_is_read_at_the_words_that_it_touches(spans_pipe, data, text):
    """Against the model itself on the whole text, which is one chunk, word by word as the tokenizer tells."""
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    span = {"start": start, "end": end, "sentiment": "neutral"}
    (reading,) = read_gold_spans(spans_pipe, [{"text": text, "topics": None, "targets": [span]}])

    encoding = spans_pipe.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    offsets, word_ids = encoding.pop("offset_mapping")[0].tolist(), encoding.word_ids()
    with torch.inference_mode():
        logits = spans_pipe.model(**encoding).topic_sentiment_logits[0]  # (tokens, classes)
    words = {}
    for token, (word, (a, b)) in enumerate(zip(word_ids, offsets)):
        if word is not None:
            first, begin, _ = words.get(word, (token, a, b))
            words[word] = (first, begin, b)
    touched = [first for first, a, b in words.values() if a < end and b > start]
    if not touched:
        assert reading["targets"] == [None]
    else:
        label = spans_pipe.model.config.sentiment_labels[logits[touched].mean(0).argmax()]
        assert reading["targets"] == [label]


def test_rows_whose_spans_have_no_sentiment_are_not_read(spans_pipe, monkeypatch):
    monkeypatch.setattr(spans_pipe, "preprocess", None)
    topics = [{"start": 0, "end": 3, "sentiment": None}, {"start": 4, "end": 5}]
    assert read_gold_spans(spans_pipe, [{"text": TEXTS[0], "topics": topics}]) == [
        {"topics": [None] * 2, "targets": []}
    ]


def test_rows_without_spans_are_not_read(spans_pipe, monkeypatch):
    monkeypatch.setattr(spans_pipe, "preprocess", None)
    rows = [{"text": TEXTS[0], "topics": None, "targets": None}, {"text": TEXTS[1], "topics": [], "targets": []}]
    assert read_gold_spans(spans_pipe, rows) == [{"topics": [], "targets": []}] * 2
    assert read_gold_spans(spans_pipe, []) == []


def test_a_span_that_a_chunk_cuts_is_read_in_both_parts_and_one_without_words_not_at_all(spans_pipe):
    text = f"{LONG} \u200b"
    whole = {"start": 0, "end": len(text), "sentiment": "neutral"}
    nothing = {"start": len(text) - 1, "end": len(text), "sentiment": "neutral"}
    rows = [{"text": text, "topics": [whole, nothing], "targets": None}]
    assert len(spans_pipe(text, return_chunks=True)["chunks"]) > 1
    (reading,) = read_gold_spans(spans_pipe, rows)
    assert reading["topics"][0] in spans_pipe.model.config.sentiment_labels and reading["topics"][1] is None
