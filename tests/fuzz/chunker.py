"""`chunking_tsn.py`: chunks, tagged words and tokens of any text, beside a definition written out by hand."""

from hypothesis import given
from hypothesis import strategies as st

from chunking_tsn import chunk_text, encode_chunks, tag_words
from tests.conftest import make_byte_tokenizer, make_tokenizer
from tests.fuzz.texts import hostile_texts
from tests.runtime.test_chunking import visible

STOPS, CLOSINGS = "。！？｡", "”’»)]}›」』"
TOKENIZERS = {"wordpiece": make_tokenizer(), "bytes": make_byte_tokenizer()}


def is_han(char):
    return any(a <= char <= b for a, b in ["㐀䶿", "一鿿", "\uf900\ufaff", "\U00020000\U000323af"])


def counted_words(text):
    """`[(start, end), ...]` of the words that the length of a chunk is counted in, character by character."""
    words, state = [], "space"
    for i, char in enumerate(text):
        before, joins = state, False
        if char.isspace():
            state = "space"
            continue
        if char in STOPS:  # goes with what stands before it, but for another sentence's closing bracket
            state, joins = "stop", before in ("word", "han", "stop")
        elif before in ("stop", "closing") and char in CLOSINGS:
            state, joins = "closing", True
        elif is_han(char):
            state = "han"
        else:
            state, joins = "word", before == "word"
        words.append((words.pop()[0], i + 1) if joins else (i, i + 1))
    return words


def printed(text):
    return [i for i, char in enumerate(text) if not char.isspace()]


def check_chunks(text, max_words, overlap):
    words, chunks = counted_words(text), chunk_text(text, max_words, overlap)
    first_at, last_at = {start: i for i, (start, _) in enumerate(words)}, {end: i for i, (_, end) in enumerate(words)}
    fresh = 0
    for start, end in chunks:
        assert 0 <= start < end <= len(text)
        first, last = first_at[start], last_at[end]  # a chunk begins and ends with a word
        assert first == max(fresh - overlap, 0)
        assert last >= fresh and last - first < max_words
        fresh = last + 1
    assert fresh == len(words)


def check_words(text):
    spans = tag_words(text)
    inside = [i for start, end in spans for i in range(start, end)]
    seen = set(visible(text))
    assert inside == sorted(set(inside)) and seen.issubset(inside)
    assert all(seen.intersection(range(start, end)) for start, end in spans)


def check_tokens(text, max_words, overlap, tokenizer, max_tokens):
    owners, chunks, encodings = encode_chunks([text, text], tokenizer, max_words, overlap, max_tokens)
    half = len(owners) // 2
    assert owners == [0] * half + [1] * half and chunks[:half] == chunks[half:]
    assert len(encodings) == len(chunks)
    covered = set()
    for (start, end), encoding in zip(chunks, encodings):
        assert 0 <= start < end <= len(text) and len(encoding) <= max_tokens
        assert all(0 <= a <= b <= end - start for a, b in encoding.offsets)
        covered.update(range(start, end))
    assert covered.issuperset(printed(text))


@given(
    text=hostile_texts,
    max_words=st.integers(1, 60),
    overlap=st.integers(0, 59),
    kind=st.sampled_from(sorted(TOKENIZERS)),
    max_tokens=st.integers(8, 64),
)
def holds(text, max_words, overlap, kind, max_tokens):
    overlap %= max_words
    check_words(text)
    check_chunks(text, max_words, overlap)
    check_tokens(text, max_words, overlap, TOKENIZERS[kind], max_tokens)
