"""`TSNPipeline` over several chunks: aggregation, overlap, distinct topics, and where parameters come from.

Most of it runs on a model that is a table from words to tags, so that what must come out can be worked out by hand.
"""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from configuration_tsn import TSNConfig
from modeling_tsn import TSNModel, TSNOutput
from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, backbone_config, make_model, make_tokenizer
from tests.runtime.test_pipeline import SENTIMENTS, assert_same, check

SENTENCES = [sentence for text in TEXTS for sentence in re.findall(r"[^.!;]+[.!]", text)]

# word: (topic tag, entity tag, logits of negative, neutral and positive); a tag's logit is 4, those of others 0
TABLE = {
    "screen": ("S-TOPIC", "O", [0, 0, 0]),
    "Screen": ("S-TOPIC", "O", [0, 0, 0]),
    "payment": ("B-TOPIC", "O", [0, 0, 0]),
    "method": ("E-TOPIC", "O", [0, 0, 0]),
    "Method": ("E-TOPIC", "O", [0, 0, 0]),
    "Lima": ("O", "S-LOC", [0, 0, 0]),
    "Ana": ("O", "B-PER", [0, 0, 0]),
    "de": ("O", "I-PER", [0, 0, 0]),
    "Torres": ("O", "E-PER", [0, 0, 0]),
    "good": ("O", "O", [0, 0, 2]),
    "bad": ("O", "O", [3, 0, 0]),
    "so": ("O", "O", [0, 1, 0]),
    "the": ("O", "O", [0, 0, 0]),
    ".": ("O", "O", [0, 0, 0]),
}
SURE = math.exp(4) / (math.exp(4) + 4)  # probability of a topic tag among five


class TableModel(TSNModel):
    """Each token's tags depend on the token alone; a chunk's sentiment on the sum over its tokens."""

    def fill(self):
        topic, entity = (
            torch.zeros(len(TABLE) + 1, len(x)) for x in (self.config.topic_labels, self.config.ner_labels)
        )
        feeling = torch.zeros(len(TABLE) + 1, 3)
        for i, (topic_tag, entity_tag, sentiment) in enumerate(TABLE.values(), start=1):
            topic[i, self.config.topic_labels.index(topic_tag)] = 4
            entity[i, self.config.ner_labels.index(entity_tag)] = 4
            feeling[i] = torch.tensor(sentiment)
        topic[0, 0] = entity[0, 0] = 4  # other words: O
        self.tables = topic, entity, feeling
        return self

    def forward(self, input_ids, attention_mask=None, **_):
        topic, entity, feeling = (table[input_ids] for table in self.tables)
        summed = (feeling * attention_mask.unsqueeze(-1)).sum(1)
        tables = {"topic_logits": topic, "ner_logits": entity, "topic_sentiment_logits": feeling}
        return TSNOutput(**tables, sentiment_logits=summed)


@pytest.fixture(scope="module")
def table():
    """A pipeline on the table, without special tokens: a token a word."""
    words = Tokenizer(
        models.WordLevel({"[PAD]": 0, **{word: i for i, word in enumerate(TABLE, 1)}}, unk_token="[PAD]")
    )
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[PAD]")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = TSNConfig(backbone_config=backbone_config("bert", len(tokenizer), positions=512))
    return TSNPipeline(TableModel(config).eval().fill(), tokenizer)


def spans(found):
    return [(span["start"], span["end"]) for span in found]


def occurrences(pattern, text):
    return [match.span() for match in re.finditer(pattern, text)]


# Sentiment of topics and entities


def test_sentiment_of_entities_worked_out_by_hand(monkeypatch, table):
    """Read at an entity's own words, the mean of their logits, whatever stands beside them."""
    _, _, feeling = table.model.tables
    places = {word: i for i, word in enumerate(TABLE, start=1)}
    said = feeling.clone()
    for word, logits in {"Ana": [0, 0, 5], "de": [0, 1, 0], "Torres": [4, 0, 0], "Lima": [0, 2, 0]}.items():
        said[places[word]] = torch.tensor(logits, dtype=torch.float)
    monkeypatch.setattr(table.model, "tables", (*table.model.tables[:2], said))
    monkeypatch.setattr(table.model.config, "temperatures", {"topic": 1.0, "ner": 1.0, "sentiment": 2.0})
    text = "bad bad Ana de Torres. good good Lima bad"
    expected = [("PER", "Ana de Torres", softmax(4 / 6, 1 / 6, 5 / 6)), ("LOC", "Lima", softmax(0, 1, 0))]
    for how in ({}, {"max_words": 6}, {"max_words": 6, "overlap_words": 2}, {"batch_size": 2, "max_words": 5}):
        entities = table(text, **how)["entities"]
        assert [(e["entity_group"], e["word"]) for e in entities] == [(kind, word) for kind, word, _ in expected]
        for entity, (*_, shares) in zip(entities, expected):
            assert list(entity)[-2:] == ["sentiment", "sentiment_score"]
            assert entity["sentiment"] == SENTIMENTS[shares.index(max(shares))]
            assert entity["sentiment_score"] == pytest.approx(max(shares), abs=1e-6)


def test_sentiment_of_topics_worked_out_by_hand(monkeypatch, table):
    """Read at a topic's own words, not at those beside it; with `top_k`, the mean over its mentions."""
    _, _, feeling = table.model.tables
    places = {word: i for i, word in enumerate(TABLE, start=1)}
    said = feeling.clone()
    for word, logits in {"screen": [2, 0, 0], "Screen": [0, 0, 3], "payment": [0, 0, 4], "method": [2, 0, 0]}.items():
        said[places[word]] = torch.tensor(logits, dtype=torch.float)
    monkeypatch.setattr(table.model, "tables", (*table.model.tables[:2], said))
    text = "bad bad payment method. good good screen bad Screen"
    expected = [("payment method", softmax(1, 0, 2)), ("screen", softmax(2, 0, 0)), ("Screen", softmax(0, 0, 3))]
    for how in ({}, {"max_words": 2}, {"max_words": 2, "overlap_words": 1}, {"batch_size": 2, "max_words": 4}):
        found = table(text, **how)["topics"]
        assert [topic["word"] for topic in found] == [word for word, _ in expected]
        for topic, (_, shares) in zip(found, expected):
            assert topic["sentiment"] == SENTIMENTS[shares.index(max(shares))]
            assert topic["sentiment_score"] == pytest.approx(max(shares), abs=1e-6)
    best = {topic["word"].lower(): topic for topic in table(text, top_k=5)["topics"]}
    mean = [(a + b) / 2 for a, b in zip(softmax(2, 0, 0), softmax(0, 0, 3))]
    assert best["screen"]["count"] == 2 and best["screen"]["sentiment"] == SENTIMENTS[mean.index(max(mean))]
    assert best["screen"]["sentiment_score"] == pytest.approx(max(mean), abs=1e-6)


# Sentiment


def softmax(*logits):
    powers = [math.exp(x) for x in logits]
    return [power / sum(powers) for power in powers]


def test_aggregation_worked_out_by_hand(table):
    text = "the good. the bad. the good. so so so so."  # chunks of two words; the last sentence makes two
    chunks = [softmax(0, 0, 2), softmax(3, 0, 0), softmax(0, 0, 2), softmax(0, 2, 0), softmax(0, 2, 0)]
    columns = list(zip(*chunks))  # a column a class
    for how, label, scores in (
        ("max", "negative", [max(column) for column in columns]),
        ("mean", "positive", [sum(column) / 5 for column in columns]),
        ("vote", "positive", [0.2, 0.4, 0.4]),  # a tie: the mean of neutral and positive is the same, up to rounding
    ):
        got = table(text, max_words=2, aggregation=how)["sentiment"]
        assert_same(list(got["scores"].values()), scores)
        assert got["label"] == label or how != "max" and got["label"] == "neutral"
        assert got["score"] == got["scores"][got["label"]] == max(got["scores"].values())


@pytest.mark.parametrize("batch_size", [1, 4])
@settings(max_examples=12)
@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=6))
def test_aggregation_of_the_chunks_own_results(pipe, batch_size, sentences):
    # 13 words at most and no two sentences within 13: each sentence is a chunk
    sentences = [" ".join((sentence.strip(" .!") + " and" * 13).split()[:12]) + " end." for sentence in sentences]
    alone = [result["sentiment"] for result in pipe(sentences, batch_size=8)]
    rows = np.array([[one["scores"][name] for name in SENTIMENTS] for one in alone])
    text = " ".join(sentences)
    votes = np.array([sum(one["label"] == name for one in alone) for name in SENTIMENTS]) / len(alone)
    expected = {"max": rows.max(0), "mean": rows.mean(0), "vote": votes}
    for how, scores in expected.items():
        got = pipe(text, max_words=13, aggregation=how, batch_size=batch_size)["sentiment"]
        assert_same(got["scores"], dict(zip(SENTIMENTS, scores.tolist())))
        leaders = [name for name, score in zip(SENTIMENTS, scores) if score == scores.max()]
        winner = max(leaders, key=lambda name: rows.mean(0)[SENTIMENTS.index(name)])
        assert (got["label"], got["score"]) == (winner, pytest.approx(scores.max(), abs=1e-5))
    assert_same(pipe(text, max_words=13)["sentiment"], pipe(text, max_words=13, aggregation="max")["sentiment"])


@given(st.lists(st.sampled_from([*TEXTS, "", "\u200b", "  \n"]), min_size=1, max_size=4), st.integers(4, 20))
def test_chunks_are_texts_with_a_sentiment_of_their_own(pipe, texts, size):
    """Against the pipeline on each chunk's text alone; together they hold every word, in order."""
    whole = "\n".join(texts)
    for text, result in zip([whole, *texts], pipe([whole, *texts], max_words=size, batch_size=3, return_chunks=True)):
        chunks = result.pop("chunks")
        assert_same(result, pipe(text, max_words=size))
        pieces = [text[chunk["start"] : chunk["end"]] for chunk in chunks]
        for chunk, alone in zip(chunks, pipe(pieces, max_words=size, return_chunks=True)):
            assert_same(chunk["sentiment"], alone["sentiment"])
            assert len(alone["chunks"]) == 1
        assert "".join(re.findall(r"\w", "".join(pieces))) == "".join(re.findall(r"\w", text))
        assert all(a["end"] <= b["start"] for a, b in zip(chunks, chunks[1:]))
        best = {name: max((c["sentiment"]["scores"][name] for c in chunks), default=0.0) for name in SENTIMENTS}
        assert_same(best, result["sentiment"]["scores"])


def test_the_mean_decides_a_tied_vote(table):
    for text, winner in (("bad the. good the.", "negative"), ("so the. good the.", "positive")):
        result = table(text, max_words=2, aggregation="vote")["sentiment"]
        assert result["label"] == winner and result["score"] == 0.5


# Spans of several chunks

STRANGE = ["\n", "\u00a0", "🙂", "İ", "e\u0301", "\ud800", "\udfff\ud800", "\u200b", "東京", "👩‍👩‍👧", "\x00"]
words = st.lists(st.sampled_from([*TABLE, "so", "the", *STRANGE]), max_size=40).map(" ".join)


@given(words, st.integers(1, 12), st.integers(0, 11), st.sampled_from([1, 5]))
def test_one_word_spans_do_not_depend_on_the_chunks(table, text, size, overlap, batch_size):
    """Each mention comes out once, with its score, however many chunks repeat it."""
    result = table(text, max_words=size, overlap_words=min(overlap, size - 1), batch_size=batch_size)
    check(text, result)
    topics = [span for span in result["topics"] if " " not in span["word"]]
    assert set(occurrences(r"[Ss]creen", text)) <= set(spans(topics))
    assert spans(e for e in result["entities"] if e["entity_group"] == "LOC") == occurrences("Lima", text)
    assert all(span["score"] == pytest.approx(SURE) for span in topics if span["word"].lower() == "screen")


def test_overlap_mends_what_a_border_cuts(table):
    text = "the so the payment method so Ana de Torres so the"
    whole = table(text)
    assert [topic["word"] for topic in whole["topics"]] == ["payment method"]
    assert [entity["word"] for entity in whole["entities"]] == ["Ana de Torres"]
    cut = table(text, max_words=4)  # the so the payment | method so Ana de | Torres so the
    assert not {"payment method"} & {topic["word"] for topic in cut["topics"]}
    mended = table(text, max_words=6, overlap_words=4)  # each three words stand together in one chunk
    assert spans(mended["topics"]) == spans(whole["topics"])
    assert spans(mended["entities"]) == spans(whole["entities"])


@given(st.integers(2, 13), st.integers(0, 12), st.sampled_from([*TEXTS, " ".join(TEXTS)]))
def test_overlap_gives_no_doubles(pipe, size, overlap, text):
    result = pipe(text, max_words=size, overlap_words=min(overlap, size - 1), batch_size=8)
    check(text, result)
    for head in ("topics", "entities"):
        assert len(set(spans(result[head]))) == len(result[head])


def test_overlap_repeats_words(table):
    """Context does reach the next chunk: its sentiment reads it."""
    text = "bad the good so"
    without, with_overlap = (table(text, max_words=3, overlap_words=n, aggregation="mean") for n in (0, 2))
    # bad the good | so against bad | bad the good?: chunks hold three words, two of them repeated
    assert without["sentiment"] != with_overlap["sentiment"]
    rows = [softmax(3, 0, 0), softmax(3, 0, 0), softmax(3, 0, 2), softmax(0, 1, 2)]
    assert_same(list(with_overlap["sentiment"]["scores"].values()), np.mean(rows, 0).tolist())


def test_scores_of_a_long_chunk_are_exact(table):
    """Equal mentions have equal scores wherever they stand: no sum over the words before them is in it."""
    text = "screen the payment method so Lima " * 80
    result = table(text, max_words=500)
    check(text, result)
    assert len(result["topics"]) == 160 and len(result["entities"]) == 80
    assert all(abs(topic["score"] - SURE) < 2e-7 for topic in result["topics"])
    assert len({round(entity["score"], 7) for entity in result["entities"]}) == 1


# Distinct topics


def test_distinct_topics_worked_out_by_hand(table):
    text = "screen so payment method. Lima Screen the payment\n  Method so the screen."
    every = table(text)["topics"]
    assert [topic["word"] for topic in every] == ["screen", "payment method", "Screen", "payment\n  Method", "screen"]
    best = table(text, top_k=5)["topics"]
    # the same score: the earlier one first
    assert [(topic["word"], topic["count"], topic["start"]) for topic in best] == [
        ("screen", 3, 0),
        ("payment method", 2, 10),
    ]
    assert table(text, top_k=1)["topics"] == best[:1]
    assert all(topic["score"] == pytest.approx(SURE) for topic in best)


@given(st.lists(st.sampled_from([*TEXTS, TEXTS[1].upper()]), min_size=1, max_size=4), st.integers(1, 30))
def test_distinct_topics_against_all_mentions(pipe, texts, top_k):
    text = "\n".join(texts)
    every, result = pipe(text), pipe(text, top_k=top_k)
    groups = {}
    for topic in every["topics"]:
        groups.setdefault(" ".join(topic["word"].casefold().split()), []).append(topic)
    best = [{**max(group, key=lambda topic: topic["score"]), "count": len(group)} for group in groups.values()]
    best.sort(key=lambda topic: -topic["score"])
    assert [topic["score"] for topic in result["topics"]] == pytest.approx([topic["score"] for topic in best[:top_k]])
    by_place = {topic["start"]: topic for topic in best}
    for topic in result["topics"]:
        if topic["start"] in by_place:  # of equal mentions either may stand for all
            expected = by_place[topic["start"]]
            for name in ("sentiment", "sentiment_score") if topic["count"] > 1 else ():  # of all mentions, see below
                topic, expected = ({k: v for k, v in t.items() if k != name} for t in (topic, expected))
            assert_same(topic, expected)
    if top_k >= len(best):
        assert sum(topic["count"] for topic in result["topics"]) == len(every["topics"])
    assert_same(result["entities"], every["entities"])
    assert_same(result["sentiment"], every["sentiment"])


@pytest.mark.parametrize("threshold", [0, 0.3, 0.5, 1, 1.0])
def test_threshold_leaves_out_topics_alone(pipe, threshold):
    text = " ".join(TEXTS)
    every = pipe(text)
    result = pipe(text, threshold=threshold)
    assert_same(result["topics"], [topic for topic in every["topics"] if topic["score"] >= threshold])
    assert_same(result["entities"], every["entities"])
    counted = pipe(text, threshold=threshold, top_k=100)["topics"]
    assert sum(topic["count"] for topic in counted) == len(result["topics"])


# Where parameters come from

PARAMETERS = {"max_words": 7, "overlap_words": 3, "aggregation": "vote", "top_k": 2, "threshold": 0.2}
PARAMETERS |= {"return_chunks": True, "entity_threshold": 0.3}


@pytest.mark.parametrize("names", [[name] for name in PARAMETERS if name != "overlap_words"] + [list(PARAMETERS)])
def test_constructor_and_call_take_the_same_parameters(pipe, names):
    text = " ".join(TEXTS)
    chosen = {name: PARAMETERS[name] for name in names}
    made = TSNPipeline(pipe.model, pipe.tokenizer, batch_size=4, num_workers=0, **chosen)
    expected = pipe(text, **chosen)
    assert_same(made(text), expected)
    assert_same(made([text, "", text]), [expected, pipe("", **chosen), expected])
    assert expected != pipe(text)
    # a call overrides for itself alone
    default = {"max_words": None, "overlap_words": 0, "aggregation": "max", "top_k": None, "threshold": 0.0}
    default |= {"return_chunks": False, "entity_threshold": 0.0}
    assert_same(made(text, **default), pipe(text))
    assert_same(made(text), expected)


def test_sizes_are_checked_together_wherever_they_come_from(pipe):
    """What counts is what the call works with, not the configuration's 50."""
    text = " ".join(TEXTS)
    wide = TSNPipeline(pipe.model, pipe.tokenizer, max_words=100)
    assert_same(wide(text, overlap_words=60), pipe(text, max_words=100, overlap_words=60))
    narrow = TSNPipeline(pipe.model, pipe.tokenizer, max_words=10)
    with pytest.raises(ValueError, match="overlap_words"):
        narrow(text, overlap_words=10)
    overlapping = TSNPipeline(pipe.model, pipe.tokenizer, overlap_words=10)
    with pytest.raises(ValueError, match="overlap_words"):
        overlapping(text, max_words=10)


def test_labels_come_from_the_configuration():
    tokenizer = make_tokenizer()
    types = ["O", *(f"{p}-{t}" for t in ("Person", "Product") for p in "BIES")]
    model = make_model("bert", len(tokenizer), ner_labels=types, sentiment_labels=["bad", "good"])
    result = TSNPipeline(model, tokenizer)(" ".join(TEXTS))
    assert {entity["entity_group"] for entity in result["entities"]} == {"Person", "Product"}
    assert list(result["sentiment"]["scores"]) == ["bad", "good"]


WRONG = [
    ("max_words", 0), ("max_words", -5), ("max_words", 2.5), ("max_words", "10"), ("max_words", True),
    ("overlap_words", -1), ("overlap_words", 50), ("overlap_words", 1.0), ("overlap_words", None),
    ("aggregation", "median"), ("aggregation", None), ("aggregation", ["max"]),
    ("top_k", 0), ("top_k", -1), ("top_k", 2.0), ("top_k", "3"), ("top_k", True),
    ("threshold", -0.1), ("threshold", 1.5), ("threshold", "0.5"), ("threshold", math.nan), ("threshold", None),
    ("entity_threshold", -0.1), ("entity_threshold", 1.5), ("entity_threshold", "0.5"), ("entity_threshold", math.nan),
    ("entity_threshold", None), ("entity_threshold", True),
    ("batch_size", 0), ("batch_size", -1), ("batch_size", 2.0), ("num_workers", -1), ("num_workers", "1"),
    ("return_chunks", 1), ("return_chunks", None), ("truncation", True), ("topk", 3),
]  # fmt: skip


@pytest.mark.parametrize("name, value", WRONG)
def test_wrong_parameters_of_a_call_are_named(pipe, name, value):
    with pytest.raises(ValueError, match=name):
        pipe("Some text.", **{name: value})


@pytest.mark.parametrize("name, value", WRONG)
def test_wrong_parameters_of_the_constructor_are_named(pipe, name, value):
    with pytest.raises(ValueError, match=name):
        TSNPipeline(pipe.model, pipe.tokenizer, **{name: value})("Some text.")
