"""`TSNPipeline` through its public interface: the offset invariant, every way to pass texts, decoding, errors."""

import copy
import itertools
import math
import re
import signal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, CanineTokenizer, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from pipeline_tsn import TSNPipeline
from tests.conftest import TEXTS, make_byte_tokenizer, make_model, make_tokenizer

SENTIMENTS = ["negative", "neutral", "positive"]
LONG = " ".join(TEXTS * 3)
MANY = ["Short.", TEXTS[0], "", LONG, TEXTS[4], " \n", TEXTS[1], "東京", TEXTS[2] * 4, "ok", TEXTS[3]]


def check(text, result):
    """What must hold of every result."""
    assert list(result) == ["topics", "sentiment", "entities"]
    for head in ("topics", "entities"):
        end = 0
        for span in result[head]:
            assert text[span["start"] : span["end"]] == span["word"]
            assert span["word"].strip() == span["word"] != ""
            assert span["start"] >= end, "spans of one head are in order and do not overlap"
            assert 0 <= span["score"] <= 1
            assert span["sentiment"] in SENTIMENTS and 1 / 3 - 1e-6 <= span["sentiment_score"] <= 1 + 1e-6
            end = span["end"]
    assert all(span["entity_group"] in {"PER", "LOC", "ORG", "MISC"} for span in result["entities"])
    label, score, scores = (result["sentiment"][key] for key in ("label", "score", "scores"))
    assert list(scores) == SENTIMENTS and all(0 <= value <= 1 for value in scores.values())
    if label is None:
        assert score == 0 and set(scores.values()) == {0} and not result["topics"] and not result["entities"]
        assert not re.search("[A-Za-z0-9]", text)
    else:
        assert text.strip() and score == scores[label]


def assert_same(got, expected):
    """Equal, floats to 1e-5: a batch's shape changes the last bits of a sum."""
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key, value in expected.items():
            assert_same(got[key], value)
    elif isinstance(expected, list):
        assert isinstance(got, list) and len(got) == len(expected)
        for one, other in zip(got, expected):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=1e-5)
    else:
        assert got == expected


@pytest.fixture(scope="module")
def byte_pipe(byte_tokenizer):
    return TSNPipeline(make_model("distilbert", len(byte_tokenizer)), byte_tokenizer)


@pytest.fixture(scope="module")
def singles(pipe):
    """The result of each of MANY, asked for alone."""
    return [pipe(text) for text in MANY]


@pytest.fixture(autouse=True)
def no_hanging():
    """A loop that does not end fails the test rather than stop the suite."""

    def stop(*_):
        raise TimeoutError("still running after two minutes of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, 120)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


# Offsets

PIECES = [
    *TEXTS,
    "🙂",
    "👩‍👩‍👧‍👦",
    "🇩🇪",
    "e\u0301\u0302",
    "\u0301",
    "İ",
    "ß",
    "ﬁ",
    "שָׁלוֹם",
    "مرحبا",
    "\u202e",
    "東京都",
    "東\ufe00",
    "한국어",
    "ไทย",
]
PIECES += [
    "\u200b",
    "\u200d",
    "\ufeff",
    "\u00ad",
    "\t",
    "\n\n",
    "\r\n",
    "\u2028",
    "\u00a0",
    "\x00",
    "\x1b",
    "\ud800",
    "\udfff",
    "\ue000",
]
PIECES += [
    "a",
    "B",
    "9",
    "_",
    ".",
    "…",
    "?!",
    "U.S.",
    "don't",
    "x" * 150,
    "[SEP]",
    "<s>",
    "##ing",
    "Ġ",
    "\U0001f469\U0001f3fd",
]
nasty = st.lists(
    st.sampled_from(PIECES) | st.sampled_from([" ", " ", "", "\n"]) | st.characters() | st.text(max_size=8),
    max_size=40,
).map("".join)
with_surrogates = st.text(st.characters(exclude_categories=[]), max_size=60)


@given(nasty | with_surrogates, st.integers(1, 60), st.integers(0, 59), st.sampled_from(["max", "mean", "vote"]))
def test_offsets_hold_on_any_text_wordpiece(pipe, text, words, overlap, aggregation):
    overlap = min(overlap, words - 1)
    check(text, pipe(text, max_words=words, overlap_words=overlap, aggregation=aggregation, batch_size=16))


@given(nasty | with_surrogates, st.integers(1, 60), st.integers(0, 59), st.sampled_from(["max", "mean", "vote"]))
def test_offsets_hold_on_any_text_bytes(byte_pipe, text, words, overlap, aggregation):
    overlap = min(overlap, words - 1)
    check(text, byte_pipe(text, max_words=words, overlap_words=overlap, aggregation=aggregation, batch_size=16))


@given(nasty, st.sampled_from([" ", "\n\t ", "\u00a0\u2003"]))
def test_leading_white_space_moves_the_spans_alone(byte_pipe, text, space):
    expected = byte_pipe(text, batch_size=16)
    for span in expected["topics"] + expected["entities"]:
        span["start"], span["end"] = span["start"] + len(space), span["end"] + len(space)
    assert_same(byte_pipe(space + text, batch_size=16), expected)


def test_lone_surrogates_count_as_one_character(pipe, byte_pipe):
    """No tokenizer takes them; they may not move what stands behind them."""
    text = "Ana \ud800\ud800 Torres\udc00 of Banco Azul spoke in Lima."
    for one in (pipe, byte_pipe):
        expected = one(text.replace("\ud800", "\ufffd").replace("\udc00", "\ufffd"))
        for span in expected["topics"] + expected["entities"]:
            span["word"] = text[span["start"] : span["end"]]
        assert_same(one(text), expected)


@given(st.lists(nasty, max_size=6), st.sampled_from([1, 3]))
def test_offsets_hold_in_batches(byte_pipe, texts, batch_size):
    results = byte_pipe(texts, batch_size=batch_size)
    assert len(results) == len(texts)
    for text, result in zip(texts, results):
        check(text, result)


@pytest.mark.parametrize(
    "word", ["a" * 5000, "東" * 5000, "é🙂" * 2500, "ab-" * 1666], ids=["latin", "han", "emoji", "hyphens"]
)
def test_a_very_long_word(pipe, byte_pipe, word):
    text = f"Before {word} after."
    for one in (pipe, byte_pipe):
        result = one(text, batch_size=16)
        check(text, result)
        assert result["sentiment"]["label"] is not None


@pytest.mark.slow
def test_a_very_long_document(pipe):
    words = " ".join(TEXTS).split()
    text = " ".join(words[i % len(words)] for i in range(200_000))
    result = pipe(text, batch_size=32)  # about 12 s; a quadratic step would take minutes, see no_hanging
    check(text, result)
    # Nothing is truncated: mentions stand in the last hundredth of the text as in the first.
    for spans in (result["topics"], result["entities"]):
        assert spans[0]["start"] < len(text) / 100 and spans[-1]["end"] > len(text) * 99 / 100


# Ways to pass texts


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_list(pipe, singles, batch_size):
    assert_same(pipe(list(MANY), batch_size=batch_size), singles)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    "wrap", [tuple, np.array, lambda texts: np.array(texts, dtype=object)], ids=["tuple", "str array", "object array"]
)
def test_other_sequences_give_a_list(pipe, singles, wrap, batch_size):
    assert_same(pipe(wrap(MANY), batch_size=batch_size), singles)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_iterators_give_an_iterator(pipe, singles, batch_size):
    for inputs in ((text for text in MANY), iter(MANY), KeyDataset([{"body": text} for text in MANY], "body")):
        results = pipe(inputs, batch_size=batch_size)
        assert not isinstance(results, list)
        assert_same(list(results), singles)


@pytest.mark.parametrize("batch_size, most", [(1, 2), (4, 100)])
def test_endless_generator_is_read_a_bounded_number_ahead(pipe, batch_size, most):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield f"{TEXTS[read % 5]} {read}"

    results = pipe(endless(), batch_size=batch_size)
    assert read <= 1  # transformers 5 looks at the first
    for given_back, result in enumerate(itertools.islice(results, 150), start=1):
        check(f"{TEXTS[given_back % 5]} {given_back}", result)
        assert given_back <= read <= given_back + most


@pytest.mark.parametrize("workers", [1, 2])
def test_workers(pipe, singles, workers):
    assert_same(pipe(MANY, num_workers=workers, batch_size=4), singles)
    assert_same(list(pipe(iter(MANY), num_workers=workers)), singles)


def test_nothing(pipe):
    assert pipe([]) == [] and pipe(()) == [] and list(pipe(iter([]))) == []
    assert pipe(np.array([], dtype=str)) == []
    nothing = {"topics": [], "sentiment": {"label": None, "score": 0.0, "scores": dict.fromkeys(SENTIMENTS, 0.0)}}
    nothing["entities"] = []
    for text in ("", " ", "\n\t\u00a0"):
        for aggregation in ("max", "mean", "vote"):
            assert pipe(text, aggregation=aggregation) == nothing
    assert pipe(["", ""], batch_size=8) == [nothing, nothing]


def test_padding_side_does_not_matter(pipe, singles):
    tokenizer = copy.deepcopy(pipe.tokenizer)
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    assert_same(TSNPipeline(pipe.model, tokenizer)(MANY, batch_size=4), singles)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_batch_size_does_not_matter_for_either_pooling(byte_tokenizer, pooling):
    one = TSNPipeline(make_model("bert", len(byte_tokenizer), pooling=pooling), byte_tokenizer)
    assert_same(one(MANY, batch_size=8), [one(text) for text in MANY])


# Decoding, against the model's own output


def valid(tags):
    """BIOES as its paper puts it: a span is S, or B, any number of I, and E, all of one type."""
    text = " ".join(tags) + " "
    return re.fullmatch(r"(O |S-\w+ |B-(\w+) (I-\2 )*E-\2 )*", text) is not None


@pytest.mark.parametrize("text", ["Apple Pay arrived", "Ana Torres spoke!", "battery life", "café naïve, привет"])
@pytest.mark.parametrize("head", ["topics", "entities"])
def test_decoding_is_the_best_valid_sequence(pipe, text, head):
    encoding = pipe.tokenizer(text, return_offsets_mapping=True)
    with torch.no_grad():
        output = pipe.model(**{k: torch.tensor([encoding[k]]) for k in pipe.tokenizer.model_input_names})
    logits, labels = {
        "topics": (output.topic_logits, ["O", "B-TOPIC", "I-TOPIC", "E-TOPIC", "S-TOPIC"]),
        "entities": (output.ner_logits, ["O"] + [f"{p}-{t}" for t in ("PER", "LOC", "ORG", "MISC") for p in "BIES"]),
    }[head]
    words = [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]
    first = [next(i for i, (a, b) in enumerate(encoding["offset_mapping"]) if a == w and b > a) for w, _ in words]
    probabilities = torch.softmax(logits[0].double(), -1)[first]  # (words, tags)
    logs = probabilities.log().tolist()
    best, tags = -math.inf, None
    for path in itertools.product(range(len(labels)), repeat=len(words)):
        total = sum(row[tag] for row, tag in zip(logs, path))
        if total > best and valid([labels[tag] for tag in path]):
            best, tags = total, path
    expected, open_at = [], 0
    for i, tag in enumerate(tags):
        prefix, _, kind = labels[tag].partition("-")
        if prefix in ("B", "S"):
            open_at = i
        if prefix in ("E", "S"):
            score = sum(probabilities[k, tags[k]].item() for k in range(open_at, i + 1)) / (i + 1 - open_at)
            start, end = words[open_at][0], words[i][1]
            span = {"word": text[start:end], "score": score, "start": start, "end": end}
            at_words = [output.topic_sentiment_logits[0, first[k]] for k in range(open_at, i + 1)]
            feeling = torch.softmax(sum(at_words) / len(at_words), -1).tolist()
            sentiment = {"sentiment": SENTIMENTS[feeling.index(max(feeling))], "sentiment_score": max(feeling)}
            group = {"entity_group": kind} if head == "entities" else {}
            expected.append({**group, **span, **sentiment})
    result = pipe(text)
    assert_same(result[head], expected)
    classes = torch.softmax(output.sentiment_logits[0], -1).tolist()
    winner = classes.index(max(classes))
    assert result["sentiment"]["label"] == SENTIMENTS[winner]
    assert_same(result["sentiment"]["scores"], dict(zip(SENTIMENTS, classes)))


def test_io_scheme():
    """Adjacent words of one type are one entity, of different types two."""
    tokenizer = make_tokenizer()
    one = TSNPipeline(make_model("bert", len(tokenizer), ner_scheme="IO"), tokenizer)
    encoding = tokenizer(TEXTS[0], return_offsets_mapping=True, return_tensors="pt")
    offsets = encoding.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        tags = one.model(**encoding).ner_logits[0].argmax(-1).tolist()
    words = [match.span() for match in re.finditer(r"\w+|[^\w\s]", TEXTS[0])]
    labels = [tags[next(i for i, (a, b) in enumerate(offsets) if a == w and b > a)] for w, _ in words]
    expected = []
    for label, run in itertools.groupby(zip(labels, words), key=lambda pair: pair[0]):
        run = [word for _, word in run]
        if label:
            expected.append((["O", "PER", "LOC", "ORG", "MISC"][label], run[0][0], run[-1][1]))
    assert [(e["entity_group"], e["start"], e["end"]) for e in one(TEXTS[0])["entities"]] == expected


def test_default_chunk_size_is_the_configurations(tokenizer, pipe):
    small = TSNPipeline(make_model("bert", len(tokenizer), chunk_words=4), tokenizer)
    assert_same(small(LONG), pipe(LONG, max_words=4))
    assert_same(small(LONG, max_words=50), pipe(LONG))
    assert pipe(LONG) != pipe(LONG, max_words=4)


# Parameters that cannot be right


@pytest.mark.parametrize("wrong", [None, 3, 2.5, b"bytes", {"text": "a"}, object()])
def test_not_a_text(pipe, wrong):
    with pytest.raises(TypeError, match=type(wrong).__name__):
        pipe(wrong)


@pytest.mark.parametrize("batch_size, workers", [(1, 0), (4, 0), (1, 1)])
@pytest.mark.parametrize("wrong", [None, 7, b"x", {"text": "a"}, ["nested"]])
def test_the_message_names_which_text_is_wrong(pipe, wrong, workers, batch_size):
    with pytest.raises(TypeError, match=f"input 2 is {type(wrong).__name__}"):
        pipe(["a", "b", wrong, "c"], batch_size=batch_size, num_workers=workers)


def test_needs_a_fast_tokenizer(pipe):
    for tokenizer in (CanineTokenizer(), None):
        with pytest.raises(ValueError, match="fast tokenizer"):
            TSNPipeline(model=pipe.model, tokenizer=tokenizer)


def test_loads_the_tokenizer_once(hub_folder, monkeypatch):
    loads, load = [], AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *args, **options: loads.append(1) or load(*args, **options)
    )
    pipeline("topic-sentiment-ner", model=str(hub_folder), trust_remote_code=True)
    assert len(loads) == 1


def test_does_not_change_its_parts(pipe):
    """Another user of the same tokenizer or model must not find it changed."""
    tokenizer = make_byte_tokenizer()
    before = copy.deepcopy(tokenizer.init_kwargs), tokenizer.backend_tokenizer.to_str()
    model = make_model("distilbert", len(tokenizer))
    config = model.config.to_dict()
    TSNPipeline(model, tokenizer, max_words=3)(MANY, batch_size=3)
    assert (tokenizer.init_kwargs, tokenizer.backend_tokenizer.to_str()) == before
    assert model.config.to_dict() == config
