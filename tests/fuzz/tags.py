"""`tagging_tsn.py`: spans of any logits, NaN and infinity too, beside a search written out by hand."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tagging_tsn import TagScheme, bioes_labels

NAMES = ("PER", "LOC", "ORG")
_odd = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e5, -1e5, 1e9, -1e9, 1e30, -1e30, 1e38, -1e38]
_finite = st.sampled_from(_odd) | st.floats(-(2.0**126), 2.0**126, width=32) | st.floats(-8, 8, width=32)
_any_number = _finite | st.sampled_from([math.nan, math.inf, -math.inf])


def allowed(left, right):
    """Whether the tag `right` may follow `left`; None stands for the border of a text."""
    opened = left is not None and left[:2] in ("B-", "I-")
    goes_on = right is not None and right[:2] in ("I-", "E-")
    return left[2:] == right[2:] if opened and goes_on else not opened and not goes_on


def best_total(labels, logits):
    """The highest total of the logits, `(words, tags)`, over well-formed rows of tags: exact, tag by tag."""
    totals = {label: float(value) for label, value in zip(labels, logits[0]) if allowed(None, label)}
    for row in logits[1:]:
        following = {}
        for label, value in zip(labels, row):
            before = [total for other, total in totals.items() if allowed(other, label)]
            if before:
                following[label] = max(before) + float(value)
        totals = following
    return max(total for label, total in totals.items() if allowed(label, None))


def well_formed(labels, tags):
    row = [None, *(labels[tag] for tag in tags), None]
    return all(allowed(left, right) for left, right in zip(row, row[1:]))


@st.composite
def cases(draw):
    names = NAMES[: draw(st.integers(1, 3))]
    scheme = draw(st.sampled_from(["BIOES", "IO"]))
    labels = bioes_labels(names) if scheme == "BIOES" else ["O", *names]
    labels = draw(st.permutations(labels))
    lengths = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    numbers = draw(st.sampled_from([_finite, _any_number]))
    count = sum(lengths) * len(labels)
    values = draw(st.lists(numbers, min_size=count, max_size=count))
    return TagScheme(labels, scheme), lengths, np.array(values, dtype=np.float32).reshape(-1, len(labels))


@st.composite
def span_sets(draw):
    """`(length, spans)`; the spans lie anywhere, also on each other or outside."""
    length = draw(st.integers(0, 12))
    border = st.integers(-1, 13)
    return length, draw(st.lists(st.tuples(border, border, st.sampled_from([*NAMES, "O", ""])), max_size=5))


def check_spans(scheme, lengths, logits):
    row, first, end, kind, score = scheme.best_spans(logits, lengths)
    assert len({len(column) for column in (row, first, end, kind, score)}) == 1
    before = (-1, 0)
    for r, a, b, k, value in zip(row.tolist(), first.tolist(), end.tolist(), kind.tolist(), score.tolist()):
        assert (r, a) >= before and 0 <= a < b <= lengths[r] and 0 <= k < len(scheme.types)
        assert 0 <= value <= 1 + 1e-6  # also not NaN
        before = (r, b)


def check_path(scheme, lengths, logits):
    padded = np.full((len(lengths), max(lengths), len(scheme.labels)), np.nan, dtype=np.float32)
    starts = np.cumsum([0, *lengths])
    for i, length in enumerate(lengths):
        padded[i, :length] = logits[starts[i] : starts[i + 1]]
    path = scheme.viterbi(padded, lengths)
    for i, length in enumerate(lengths):
        tags, own = path[i, :length].tolist(), padded[i, :length].astype(np.float64)
        assert set(path[i, length:].tolist()) <= {scheme.labels.index("O")}
        if scheme.scheme == "BIOES":
            assert well_formed(scheme.labels, tags)
            if length and np.isfinite(own).all():
                total = sum(own[word, tag] for word, tag in enumerate(tags))
                assert total >= best_total(scheme.labels, own) - 1e-9 * max(np.abs(own).max(), 1)


def check_round_trip(scheme, length, spans):
    taken, good = set(), True
    for first, end, name in spans:
        words = set(range(first, end))
        good = good and name in scheme.types and 0 <= first < end <= length and not taken & words
        taken |= words
    try:
        tags = scheme.encode(spans, length)
    except ValueError:
        assert not good
        return
    assert good and len(tags) == length
    if scheme.scheme == "IO":  # adjacent spans of a type become one, so words are what is compared
        names = {word: name for first, end, name in spans for word in range(first, end)}
        assert [scheme.labels[tag] for tag in tags] == [names.get(word, "O") for word in range(length)]
        return
    assert well_formed(scheme.labels, tags)
    _, first, end, kind = scheme.decode(tags[None])
    found = [(a, b, scheme.types[k]) for a, b, k in zip(first.tolist(), end.tolist(), kind.tolist())]
    assert found == sorted(spans)


@given(cases(), span_sets())
def holds(case, placed):
    check_spans(*case)
    check_path(*case)
    check_round_trip(case[0], *placed)
