"""`tagging_tsn.py` against a written definition of well-formed tags, all sequences tried out, and worked examples."""

import itertools
import re
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chunking_tsn import tag_words
from tagging_tsn import TagScheme, bioes_labels, first_subtokens
from tests.runtime.test_chunking import encodable, nasty_texts, visible

TYPES = ["PER", "LOC", "ORG"]
# The definition: outside; single; or begin, any number of insides and an end, of one type.
WELL_FORMED = re.compile(r"(?:O |S-\w+ |B-(\w+) (?:I-\1 )*E-\1 )*")
SPAN = re.compile(r"S-(\w+) |B-(\w+) (?:I-\2 )*E-\2 ")


def bioes(types):
    return TagScheme(bioes_labels(types), "BIOES")


def written(scheme, tags):
    return "".join(scheme.labels[tag] + " " for tag in tags)


def read_spans(scheme, tags):
    """Spans of well-formed BIOES tags, read off their written form."""
    text = written(scheme, tags)
    return [
        (text[: m.start()].count(" "), text[: m.end()].count(" "), m[1] or m[2])
        for m in SPAN.finditer(text)
        if text[m.start() - 1 : m.start()] in ("", " ")
    ]


def decoded(scheme, tags):
    """`decode` of a batch, as a list of `(first, end, type name)` for each row."""
    found = [[] for _ in tags]
    for row, first, end, kind in zip(*scheme.decode(tags)):
        found[row].append((int(first), int(end), scheme.types[kind]))
    return found


@st.composite
def rows_of_spans(draw, length=10):
    """Rows of spans that do not overlap but may touch."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        cuts = sorted(draw(st.sets(st.integers(0, length))))
        named = [(a, b, draw(st.sampled_from([None, *TYPES]))) for a, b in zip(cuts, cuts[1:])]
        rows.append([span for span in named if span[2]])
    return rows


# Labels and spans


def test_bioes_labels():
    assert bioes_labels(["A", "B"]) == ["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B", "E-B", "S-B"]


@pytest.mark.parametrize(
    ("labels", "scheme", "message"),
    [
        (["O", "A"], "BIO", "'BIOES' or 'IO', not 'BIO'"),
        (["O", "B-A", "I-A", "E-A"], "BIOES", "every type"),
        (["O", "B-A", "I-A", "E-A", "S-B"], "BIOES", "every type"),
        (["O", "B-A", "I-A", "E-A", "E-A"], "BIOES", "different"),
        (["O", "B-A", "I-A", "E-A", "S-A", "A"], "BIOES", "'A' is not a BIOES tag"),
        (["O", "B-A", "I-A", "E-A", "X-A"], "BIOES", "'X-A' is not a BIOES tag"),
        (["O", "B-", "I-", "E-", "S-"], "BIOES", "'B-' is not a BIOES tag"),
        (["B-A", "I-A", "E-A", "S-A"], "BIOES", "must hold 'O'"),
        (["O"], "IO", "at least one type"),
        ([], "IO", "must hold 'O'"),
        (["A", "B"], "IO", "must hold 'O'"),
        (["O", "A", "A"], "IO", "different"),
        (["O", ""], "IO", "non-empty"),
        (["O", 1], "IO", "strings"),
    ],
)
def test_labels_that_do_not_fit_the_scheme(labels, scheme, message):
    with pytest.raises(ValueError, match=message):
        TagScheme(labels, scheme)


@pytest.mark.parametrize("scheme", [bioes(TYPES), TagScheme(["O", *TYPES], "IO")], ids=["BIOES", "IO"])
@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 1, "MISC")], "'MISC' is not a type of this scheme: PER, LOC, ORG"),
        ([(0, 1, "O")], "'O' is not a type"),
        ([(2, 2, "PER")], "2:2 is empty"),
        ([(3, 2, "PER")], "3:2 is empty or outside 0:5"),
        ([(-1, 2, "PER")], "-1:2 .* outside 0:5"),
        ([(4, 6, "PER")], "4:6 .* outside 0:5"),
        ([(0, 3, "PER"), (2, 4, "PER")], "2:4 overlaps"),
        ([(1, 2, "PER"), (0, 5, "LOC")], "0:5 overlaps"),
    ],
)
def test_spans_that_cannot_be_encoded(scheme, spans, message):
    with pytest.raises(ValueError, match=message):
        scheme.encode(spans, 5)


def test_encode_a_worked_example():
    spans = [(4, 7, "LOC"), (0, 1, "PER"), (1, 3, "PER")]  # order does not matter
    assert written(bioes(TYPES), bioes(TYPES).encode(spans, 8)) == "S-PER B-PER E-PER O B-LOC I-LOC E-LOC O "
    inside = TagScheme(["LOC", "O", "PER"], "IO")  # nor does that of the labels
    assert written(inside, inside.encode(spans, 8)) == "PER PER PER O LOC LOC LOC O "
    assert bioes(TYPES).encode([], 0).shape == (0,)


@given(rows_of_spans())
def test_bioes_round_trip(rows):
    scheme = bioes(TYPES)
    tags = np.stack([scheme.encode(spans, 10) for spans in rows])
    assert tags.dtype == np.int64 and all(WELL_FORMED.fullmatch(written(scheme, row)) for row in tags)
    assert decoded(scheme, tags) == rows == [read_spans(scheme, row) for row in tags]


@given(rows_of_spans())
def test_io_round_trip_joins_neighbours_of_one_type(rows):
    scheme = TagScheme(["O", *TYPES], "IO")
    expected = []
    for spans in rows:
        names = [next((name for a, b, name in spans if a <= i < b), None) for i in range(10)]
        runs = [(name, len(list(run))) for name, run in itertools.groupby(names)]
        ends = np.cumsum([length for _, length in runs]).tolist()
        expected.append([(end - length, end, name) for (name, length), end in zip(runs, ends) if name])
    assert decoded(scheme, np.stack([scheme.encode(spans, 10) for spans in rows])) == expected


# Constrained decoding


@lru_cache(None)
def allowed_sequences(types, length):
    """All well-formed sequences, by trying every one there is."""
    labels = bioes_labels([f"T{i}" for i in range(types)])
    every = itertools.product(range(len(labels)), repeat=length)
    return np.array([s for s in every if WELL_FORMED.fullmatch("".join(labels[i] + " " for i in s))])


@given(
    types=st.integers(1, 2),
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
@example(types=2, lengths=[0], seed=0, scale=1.0)
def test_viterbi_finds_the_best_of_all_allowed_sequences(types, lengths, seed, scale):
    scheme = bioes([f"T{i}" for i in range(types)])
    logits = np.random.default_rng(seed).normal(0, scale, (len(lengths), 5, len(scheme.labels)))
    for row, length in zip(logits, lengths):
        row[length:] = np.nan  # what lies behind a row's length is not read
    paths = scheme.viterbi(logits.astype(np.float32), lengths)
    assert paths.shape == (len(lengths), 5) and paths.dtype == np.int64
    for path, row, length in zip(paths, logits.astype(np.float32).astype(np.float64), lengths):
        assert (path[length:] == 0).all()
        assert WELL_FORMED.fullmatch(written(scheme, path))
        if length:
            scores = row[np.arange(length), allowed_sequences(types, length)].sum(1)  # (sequences,)
            assert row[np.arange(length), path[:length]].sum() == pytest.approx(scores.max(), abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_long_paths_are_well_formed_and_decode_to_their_spans(seed, length):
    scheme = bioes(TYPES)
    generator = np.random.default_rng(seed)
    paths = scheme.viterbi(generator.normal(0, 5, (3, 60, 13)), generator.integers(0, length + 1, 3))
    assert all(WELL_FORMED.fullmatch(written(scheme, path)) for path in paths)
    assert decoded(scheme, paths) == [read_spans(scheme, path) for path in paths]


@pytest.mark.parametrize("impossible", [-1e4, -np.inf])
def test_paths_are_well_formed_even_where_every_allowed_one_is_impossible(impossible):
    scheme = bioes(["A"])
    for certain in itertools.product(range(5), repeat=3):
        log_probs = np.full((1, 3, 5), impossible)  # log-probabilities of a model that is too sure of itself
        log_probs[0, range(3), certain] = 0.0
        (path,) = scheme.viterbi(log_probs, [3])
        assert WELL_FORMED.fullmatch(written(scheme, path))
        if WELL_FORMED.fullmatch(written(scheme, certain)):
            assert tuple(path) == certain


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 3e38, 1e30, 1e10])
def test_no_logit_outweighs_the_scheme(odd):
    """Found by fuzzing: beside NaN or a huge logit, what is forbidden was chosen, and decoding failed."""
    scheme = bioes(["A"])
    for places in itertools.product(range(5), repeat=3):
        logits = np.zeros((3, 5), dtype=np.float32)
        logits[range(3), places] = odd
        (path,) = scheme.viterbi(logits[None], [3])
        assert WELL_FORMED.fullmatch(written(scheme, path))
        row, first, end, kind, score = scheme.best_spans(logits, [3])
        assert len(row) == len(first) == len(end) == len(kind) and (first < end).all()
        assert ((score >= 0) & (score <= 1)).all()
        if odd > 0 and WELL_FORMED.fullmatch(written(scheme, places)):
            assert tuple(path) == places


@given(
    lengths=st.lists(st.integers(0, 12), max_size=6),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.5, 3.0, 30.0]),
    scheme=st.sampled_from([bioes(TYPES), TagScheme(["O", *TYPES], "IO")]),
)
def test_best_spans_are_those_of_the_best_path_of_each_row_alone(lengths, seed, scale, scheme):
    generator = np.random.default_rng(seed)
    rows = [generator.normal(0, scale, (length, len(scheme.labels))).astype(np.float32) for length in lengths]
    expected = []
    for i, row in enumerate(rows):
        (path,) = scheme.viterbi(row[None], [len(row)])
        for _, first, end, kind in zip(*scheme.decode(path[None])):
            odds = np.exp(row.astype(np.float64))
            shares = odds / odds.sum(1, keepdims=True)
            expected.append((i, first, end, kind, np.mean([shares[k, path[k]] for k in range(first, end)])))
    found = list(zip(*scheme.best_spans(np.concatenate([np.zeros((0, len(scheme.labels)), "f"), *rows]), lengths)))
    assert [span[:4] for span in found] == [span[:4] for span in expected]
    assert [span[4] for span in found] == pytest.approx([span[4] for span in expected], rel=1e-5)
    assert all(0 <= span[4] <= 1 for span in found)


def test_io_takes_the_best_tag_of_each_word():
    scheme = TagScheme(["A", "O"], "IO")
    log_probs = np.array([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    assert scheme.viterbi(log_probs, [3, 1]).tolist() == [[1, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_empty_batches(shape):
    scheme = bioes(["A"])
    path = scheme.viterbi(np.zeros((*shape, 5)), np.zeros(shape[0], dtype=int))
    assert path.shape == shape and decoded(scheme, path) == [[] for _ in range(shape[0])]


# Words and tokens

NONE = (0, 0)  # offsets of special tokens


@pytest.mark.parametrize(
    ("words", "offsets", "positions", "spans"),
    [
        # one token a word
        ([(0, 2), (3, 5)], [NONE, (0, 2), (3, 5), NONE], [1, 2], [(0, 2), (3, 5)]),
        # word pieces, and padding behind
        ([(0, 6), (7, 9)], [NONE, (0, 3), (3, 6), (7, 9), NONE, NONE, NONE], [1, 3], [(0, 6), (7, 9)]),
        # "U.S." with one token for "U.S": four words become one unit and one word
        ([(0, 1), (1, 2), (2, 3), (3, 4)], [NONE, (0, 3), (3, 4), NONE], [1, 2], [(0, 3), (3, 4)]),
        # "'the" as "'t" and "he", as RoBERTa's pattern for contractions cuts it
        ([(0, 1), (1, 4)], [NONE, (0, 2), (2, 4), NONE], [1], [(0, 4)]),
        # "ab" "cd" "ef" as "a", "bc", "de" and "f": each token joins it to the next
        ([(0, 2), (2, 4), (4, 6)], [(0, 1), (1, 3), (3, 5), (5, 6)], [0], [(0, 6)]),
        # tokens that count the space before them as theirs
        ([(0, 2), (3, 5), (8, 9)], [(0, 2), (2, 5), (6, 9)], [0, 1, 2], [(0, 2), (3, 5), (8, 9)]),
        # tokens of the space alone carry nothing
        ([(1, 2), (3, 4)], [(0, 1), (1, 2), (2, 3), (3, 4)], [1, 3], [(1, 2), (3, 4)]),
        # white space at the end
        ([(0, 1)], [(0, 1), (1, 2)], [0], [(0, 1)]),
        # a word that the tokenizer dropped, at the start, in the middle, at the end
        ([(0, 1), (2, 3)], [NONE, (2, 3), NONE], [1], [(2, 3)]),
        ([(0, 1), (2, 3), (4, 5)], [NONE, (0, 1), (4, 5), NONE], [1, 2], [(0, 1), (4, 5)]),
        ([(0, 1), (2, 3)], [NONE, (0, 1), NONE], [1], [(0, 1)]),
        # several tokens of one character
        ([(0, 1), (1, 2)], [(0, 1), (0, 1), (0, 1), (1, 2), (1, 2)], [0, 3], [(0, 1), (1, 2)]),
        # nothing there
        ([(0, 1)], [NONE, NONE], [], []),
        ([(0, 1)], [], [], []),
        ([], [NONE, (0, 1), NONE], [], []),
        ([], [], [], []),
    ],
)
def test_first_subtokens_of_worked_examples(words, offsets, positions, spans):
    got_positions, got_spans = first_subtokens(words, offsets)
    assert got_positions.tolist() == positions
    assert got_spans.tolist() == [list(span) for span in spans] and got_spans.shape == (len(spans), 2)


@pytest.fixture(scope="module", params=["wordpiece", "bytes", "contractions"])
def any_tokenizer(request, tokenizer, byte_tokenizer):
    if request.param == "contractions":  # has tokens such as "'t", as RoBERTa's does
        texts = ["'the 'some 're l'mer don't we'll I'm she's C++ U.S. ... '' €100"] * 9
        return byte_tokenizer.train_new_from_iterator(texts, 400)
    return tokenizer if request.param == "wordpiece" else byte_tokenizer


@given(text=nasty_texts)
@example(text="'some\n'the l'mer")
@example(text="apple\x1cpay \x00screen\x00 U.S. graph\u200bs")
def test_units_are_ordered_apart_and_never_empty(any_tokenizer, text):
    offsets = np.array(any_tokenizer(encodable(text), return_offsets_mapping=True)["offset_mapping"])
    words = tag_words(text)
    positions, spans = first_subtokens(words, offsets)
    assert len(positions) == len(spans) and (np.diff(positions) > 0).all()
    assert (spans[1:, 0] >= spans[:-1, 1]).all()
    for position, (start, end) in zip(positions, spans.tolist()):
        assert text[start:end] and text[start:end] == text[start:end].strip()
        assert offsets[position, 0] <= end and offsets[position, 1] > start
        assert start in {a for a, _ in words} and end in {b for _, b in words}
    # No token is forgotten: what is visible of it lies in a unit.
    inside = {i for start, end in spans.tolist() for i in range(start, end)}
    seen = set(visible(text))
    assert not [i for a, b in offsets.tolist() for i in range(a, b) if i in seen and i not in inside]
