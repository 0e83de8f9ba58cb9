"""`tsn/data/features.py`: rows to features, sampling weights, and the collator."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chunking_tsn import chunk_text
from configuration_tsn import TSNConfig
from tests.conftest import TEXTS, example_rows, make_byte_tokenizer, make_tokenizer
from tsn.data.annotated import COLUMNS
from tsn.data.features import TSNCollator, row_weights, rows_to_features, sample_indices

IGNORED = -100
TOKENIZERS = {"wordpiece": make_tokenizer(512), "bytes": make_byte_tokenizer(512)}


def full(row):
    return {**dict.fromkeys(COLUMNS), "source": "s", "language": "en", "row": "s.jsonl, row 1", **row}


def config_of(chunk_words=50, **kwargs):
    return TSNConfig(chunk_words=chunk_words, **kwargs)


def touching(left, right):
    return right[1] > 0 and right[0] <= left[1]  # special tokens are at (0, 0)


def spans_of(labels, names, offsets, start):
    """Spans of well-formed tags at first sub-tokens, read tag by tag; a word's tokens touch."""
    found, begin = [], None
    for i, tag in enumerate(labels):
        if tag == IGNORED or names[tag] == "O":
            continue
        prefix, _, kind = names[tag].partition("-")
        last = i
        while last + 1 < len(labels) and labels[last + 1] == IGNORED and touching(offsets[last], offsets[last + 1]):
            last += 1
        if prefix in "BS":
            begin = offsets[i][0]
        if prefix in "ES":
            found.append((begin + start, offsets[last][1] + start, kind))
    return found


WORDS = ["Apple", "payment", "a", "café", "naïve", "Łódź", "graph", "12", "battery", "x1", "שלום", "Ünïque", "screen"]


@st.composite
def annotated(draw):
    """Words between single spaces, and spans of whole words of it."""
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30))
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    bounds = [(int(end) - len(word), int(end)) for word, end in zip(words, ends)]
    row = {"text": " ".join(words)}
    for name, kinds in (("topics", ["TOPIC"]), ("entities", ["PER", "LOC", "ORG", "MISC"])):
        spans, i = [], 0
        while i < len(words):
            size = draw(st.integers(0, 4))
            if size:
                last = min(i + size, len(words)) - 1
                span = {"start": bounds[i][0], "end": bounds[last][1]}
                spans.append(span if name == "topics" else {**span, "label": draw(st.sampled_from(kinds))})
            i += size or 1
        row[name] = spans
    return full(row)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(annotated(), st.integers(1, 35))
def test_tags_read_back_as_the_spans(kind, row, chunk_words):
    tokenizer, config = TOKENIZERS[kind], config_of(chunk_words)
    features = rows_to_features([row], tokenizer, config)
    chunks = chunk_text(row["text"], chunk_words)
    assert len(features) == len(chunks)
    for column, names, gold in (
        ("topic_labels", config.topic_labels, [(s["start"], s["end"], "TOPIC") for s in row["topics"]]),
        ("ner_labels", config.ner_labels, [(s["start"], s["end"], s["label"]) for s in row["entities"]]),
    ):
        for feature, chunk in zip(features, chunks):
            text = row["text"][chunk.start : chunk.end]
            encoding = tokenizer(text, return_offsets_mapping=True)
            assert feature["input_ids"] == encoding["input_ids"]
            labels, offsets = feature[column], encoding["offset_mapping"]
            whole = [span for span in gold if chunk.start <= span[0] and span[1] <= chunk.end]
            assert spans_of(labels, names, offsets, chunk.start) == whole
            # Each word has one tag, at its first token; the words of a span that the border cuts have none.
            cut = [s for s in gold if s not in whole and s[0] < chunk.end and s[1] > chunk.start]
            for match in re.finditer(r"\S+", text):
                begin, end = (x + chunk.start for x in match.span())
                tokens = [i for i, (a, b) in enumerate(offsets) if match.start() <= a < match.end() and b > a]
                tagged = [labels[i] != IGNORED for i in tokens]
                in_cut = any(s[0] < end and s[1] > begin for s in cut)
                assert tagged == [not in_cut] + [False] * (len(tokens) - 1)


def test_features_worked_out_by_hand():
    tokenizer, config = TOKENIZERS["wordpiece"], config_of()
    text = TEXTS[2]  # Ana Torres of Banco Azul spoke in Lima. Nobody asked about the interest rates.
    row = full(example_rows()[2]) | {"sentiment": "negative", "language": None, "source": "news"}
    (feature,) = rows_to_features([row], tokenizer, config)
    assert (
        feature["length"] == len(feature["input_ids"]) == len(feature["ner_labels"]) == len(tokenizer(text).input_ids)
    )
    assert feature["source"] == "news/None" and feature["sentiment_labels"] == 0
    assert set(feature["topic_labels"]) == {IGNORED}
    named = [config.ner_labels[tag] for tag in feature["ner_labels"] if tag != IGNORED]
    assert named == ["B-PER", "E-PER", "O", "B-ORG", "E-ORG"] + ["O"] * 11
    assert feature["ner_labels"][0] == feature["ner_labels"][-1] == IGNORED  # [CLS] and [SEP]


def test_the_sentiment_of_topics_worked_out_by_hand():
    """The first token of each word of a topic has its class; a topic of unknown sentiment, or cut, has none."""
    tokenizer, config = TOKENIZERS["wordpiece"], config_of(4)
    text = "the battery life with a payment screen and more graph"
    topics = [(4, 16, "negative"), (24, 38, "positive"), (48, 53, None)]
    row = full({"text": text, "topics": [{"start": a, "end": b, "sentiment": s} for a, b, s in topics]})
    first, second, third = rows_to_features([row], tokenizer, config)
    for feature, chunk, expected in (
        (first, "the battery life with", {"battery": 0, "life": 0}),
        (second, "a payment screen and", {"payment": 2, "screen": 2}),
        (third, "more graph", {}),
    ):
        offsets = tokenizer(chunk, return_offsets_mapping=True)["offset_mapping"]
        found = {a: label for (a, _), label in zip(offsets, feature["topic_sentiment_labels"]) if label != IGNORED}
        assert found == {chunk.index(word): label for word, label in expected.items()}
    (cut, _) = rows_to_features([row], tokenizer, config_of(6))
    assert sorted(set(cut["topic_sentiment_labels"])) == [IGNORED, 0], "payment | screen is cut"


def sentiments_of(feature, chunk, tokenizer):
    """`{word: class}` of the words of a chunk that have a sentiment."""
    offsets = tokenizer(chunk, return_offsets_mapping=True)["offset_mapping"]
    labels = zip(offsets, feature["topic_sentiment_labels"], strict=True)
    return {chunk[a:].split()[0]: label for (a, _), label in labels if label != IGNORED}


def test_targets_train_the_sentiment_at_their_words_and_nothing_else():
    tokenizer, config = TOKENIZERS["wordpiece"], config_of(4)
    text = "the battery life with a payment screen and more graph"
    targets = [(4, 16, "negative"), (24, 38, "positive"), (48, 53, "neutral")]
    row = full({"text": text, "targets": [{"start": a, "end": b, "sentiment": s} for a, b, s in targets]})
    first, second, third = rows_to_features([row], tokenizer, config)
    assert sentiments_of(first, "the battery life with", tokenizer) == {"battery": 0, "life": 0}
    assert sentiments_of(second, "a payment screen and", tokenizer) == {"payment": 2, "screen": 2}
    assert sentiments_of(third, "more graph", tokenizer) == {"graph": 1}
    for feature in (first, second, third):
        assert set(feature["topic_labels"]) == set(feature["ner_labels"]) == {IGNORED}
        assert feature["sentiment_labels"] == IGNORED
    cut, rest = rows_to_features([row], tokenizer, config_of(6))
    assert sentiments_of(cut, "the battery life with a payment", tokenizer) == {"battery": 0, "life": 0}
    assert sentiments_of(rest, "screen and more graph", tokenizer) == {"graph": 1}, "payment | screen is cut"


def test_a_target_counts_where_it_overlaps_a_topic():
    tokenizer, config = TOKENIZERS["wordpiece"], config_of()
    text = "the battery life with a payment screen"
    topics = [{"start": 4, "end": 16, "sentiment": "negative"}, {"start": 32, "end": 38, "sentiment": None}]
    targets = [{"start": 12, "end": 21, "sentiment": "positive"}, {"start": 24, "end": 38, "sentiment": "neutral"}]
    both, plain = rows_to_features(
        [full({"text": text, "topics": topics, "targets": targets}), full({"text": text, "topics": topics})],
        tokenizer,
        config,
    )
    expected = {"battery": 0, "life": 2, "with": 2, "payment": 1, "screen": 1}
    assert sentiments_of(both, text, tokenizer) == expected
    assert sentiments_of(plain, text, tokenizer) == {"battery": 0, "life": 0}
    assert both["topic_labels"] == plain["topic_labels"], "targets change no topic"


def test_annotated_types_are_those_of_the_row():
    tokenizer, config = TOKENIZERS["wordpiece"], config_of()
    rows = [{"entity_types": None}, {"entity_types": ["LOC", "MISC"]}, {"entity_types": []}]
    features = rows_to_features(
        [full({**example_rows()[0], "entities": [], **row}) for row in rows], tokenizer, config
    )
    all_types, two, none = features["annotated_entity_types"][:]
    assert config.entity_scheme().types == ["PER", "LOC", "ORG", "MISC"]
    assert (all_types, two, none) == ([True] * 4, [False, True, False, True], [False] * 4)
    assert TSNCollator(tokenizer)(list(features))["annotated_entity_types"].tolist() == [all_types, two, none]


def test_what_is_not_annotated_is_ignored():
    tokenizer, config = TOKENIZERS["wordpiece"], config_of()
    features = rows_to_features([full({"text": TEXTS[0]}), full({"text": TEXTS[0], "topics": []})], tokenizer, config)
    nothing, empty = features
    assert set(nothing["topic_labels"]) == set(nothing["ner_labels"]) == {IGNORED}
    assert nothing["sentiment_labels"] == IGNORED
    assert set(empty["topic_labels"]) == {IGNORED, 0}, "an empty list says that there is no topic: O"


def test_every_chunk_carries_the_sentiment_and_no_token_is_lost():
    tokenizer = make_tokenizer(24)
    text = " ".join(TEXTS)
    row = full({"text": text, "sentiment": "positive"})
    features = rows_to_features([row], tokenizer, config_of(30))
    assert len(features) > 3 and set(features["sentiment_labels"]) == {2}
    assert max(features["length"]) <= 24
    tokens = [token for ids in features["input_ids"] for token in ids[1:-1]]
    assert tokens == make_tokenizer(10**6)(text).input_ids[1:-1]


@pytest.mark.parametrize("batch_rows", [1, 2, 1000])
def test_order_and_owners_do_not_depend_on_the_batch(batch_rows):
    tokenizer, config = TOKENIZERS["wordpiece"], config_of(5)
    rows = [full({**row, "source": f"row{i}"}) for i, row in enumerate([*example_rows(), {"text": ""}, {"text": " "}])]
    features = rows_to_features(iter(rows), tokenizer, config, batch_rows=batch_rows)
    counts = [len(chunk_text(row["text"], 5)) for row in rows]
    assert features["source"][:] == [f"row{i}/en" for i, count in enumerate(counts) for _ in range(count)]
    assert features[:] == rows_to_features(rows, tokenizer, config)[:]
    assert counts[-2:] == [0, 0]


def test_spans_within_words_take_the_whole_word():
    """The pipeline could answer nothing smaller; neighbours that share a word do not both get it."""
    tokenizer, config = TOKENIZERS["wordpiece"], config_of()
    text = "the graph networks"
    cases = [([(5, 8)], [(4, 9)]), ([(0, 5)], [(0, 9)]), ([(4, 6), (6, 9)], [(4, 9)]), ([(3, 9)], [(4, 9)])]
    for given_spans, expected in cases:
        row = full({"text": text, "topics": [{"start": a, "end": b} for a, b in given_spans]})
        (feature,) = rows_to_features([row], tokenizer, config)
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        found = spans_of(feature["topic_labels"], config.topic_labels, offsets, 0)
        assert [span[:2] for span in found] == expected


def test_io_tags():
    tokenizer, config = TOKENIZERS["wordpiece"], config_of(ner_scheme="IO")
    (feature,) = rows_to_features([full(example_rows()[2])], tokenizer, config)
    named = [config.ner_labels[tag] for tag in feature["ner_labels"] if tag != IGNORED]
    assert named == ["PER", "PER", "O", "ORG", "ORG"] + ["O"] * 11


# Sampling

SOURCES = ["news/en"] * 100 + ["news/de"] * 100 + ["a/b/en"] * 100 + ["tweets/None"] * 100


def counts(indices):
    return {name: sum(SOURCES[i] == name for i in indices) for name in dict.fromkeys(SOURCES)}


def test_weights_give_how_often_a_row_is_seen():
    weights = {"news": 2, "news/de": 0, "a/b": 0.3, "tweets": 2.5}
    assert dict(zip(SOURCES, row_weights(SOURCES, weights))) == {
        "news/en": 2, "news/de": 0, "a/b/en": 0.3, "tweets/None": 2.5,
    }  # fmt: skip
    indices = sample_indices(SOURCES, weights, seed=3)
    seen = counts(indices)
    assert (seen["news/en"], seen["news/de"]) == (200, 0)
    assert 15 <= seen["a/b/en"] <= 45 and 230 <= seen["tweets/None"] <= 270  # three standard deviations
    per_row = np.bincount(indices, minlength=400)
    assert set(per_row[:100]) == {2} and set(per_row[200:300]) == {0, 1} and set(per_row[300:]) == {2, 3}


def test_sampling_is_the_seeds():
    weights = {"news": 0.5, "tweets": 1.5}
    one, again, other = (sample_indices(SOURCES, weights, seed) for seed in (1, 1, 2))
    assert one.tolist() == again.tolist() != other.tolist()
    assert sample_indices(SOURCES, {}, 1).tolist() == list(range(400))
    assert sample_indices([], {}, 1).tolist() == []


@pytest.mark.parametrize(
    "weights, reason",
    [
        ({"new": 1}, "'new'.*news"),
        ({"en": 1}, "'en'"),
        ({"news": -0.5}, "'news'.*-0.5"),
        ({"news": float("nan")}, "nan"),
    ]
    + [({"news": float("inf")}, "inf")],
)
def test_wrong_weights_are_named(weights, reason):
    with pytest.raises(ValueError, match=reason):
        sample_indices(SOURCES, weights, 0)


def test_names_of_rows_that_were_left_out_are_known():
    assert len(sample_indices(SOURCES, {"blogs": 0, "blogs/en": 0}, 0, left_out=["blogs/en"])) == len(SOURCES)
    with pytest.raises(ValueError, match="'blogs/de'.*blogs/en"):
        sample_indices(SOURCES, {"blogs/de": 0}, 0, left_out=["blogs/en"])


# The collator


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_collator_pads_everything_to_the_longest(kind, side):
    tokenizer = TOKENIZERS[kind]
    tokenizer.padding_side = side
    features = list(rows_to_features([full(row) for row in example_rows()], tokenizer, config_of()))
    batch = TSNCollator(tokenizer)(features)
    labels = ("topic_labels", "ner_labels", "topic_sentiment_labels")
    names = {*tokenizer.model_input_names, *labels, "sentiment_labels"}
    assert batch.pop("row") == ["s.jsonl, row 1"] * len(features)
    annotated = batch.pop("annotated_entity_types")
    assert annotated.dtype == torch.bool and annotated.shape == (len(features), 4) and annotated.all()
    assert set(batch) == names and {tensor.dtype for tensor in batch.values()} == {torch.int64}
    longest = max(feature["length"] for feature in features)
    padding = {"input_ids": tokenizer.pad_token_id, **dict.fromkeys(labels, IGNORED)}
    for name in names - {"sentiment_labels"}:
        assert batch[name].shape == (len(features), longest)
        for row, feature in zip(batch[name].tolist(), features):
            assert row == feature[name] + [padding.get(name, 0)] * (longest - feature["length"])
    assert batch["sentiment_labels"].tolist() == [2, 0, IGNORED, IGNORED, 1, IGNORED]


def test_collator_gives_all_label_keys_where_nothing_is_annotated():
    features = rows_to_features([full({"text": text}) for text in TEXTS], TOKENIZERS["wordpiece"], config_of())
    batch = TSNCollator(TOKENIZERS["wordpiece"])(list(features))
    for name in ("topic_labels", "ner_labels", "sentiment_labels", "topic_sentiment_labels"):
        assert set(batch[name].flatten().tolist()) == {IGNORED}
