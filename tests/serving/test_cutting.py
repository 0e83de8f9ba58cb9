"""`tsn/serving/cutting.py`: window by window, the chunks are those of the whole text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunking_tsn import chunk_text
from tsn.serving import cutting

WORDS = [
    "a",
    "word",
    "Mr.",
    "e.g.",
    "end.",
    "Done!",
    "x,",
    "東京。",
    "東",
    "\n\n",
    "(so)",
    "U.S.",
    "\u3000",
    "\0",
    "\ud800",
    "l" * 30,
]
TEXTS = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", "  ", "", "\n"])), max_size=120).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)


@given(TEXTS, st.integers(1, 12), st.data(), st.sampled_from([5, 20, 60, 200]))
def test_chunks_are_those_of_the_whole_text(text, max_words, data, window):
    overlap_words = data.draw(st.integers(0, max_words - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "WINDOW", window)
        assert list(cutting.cut(text, max_words, overlap_words)) == chunk_text(text, max_words, overlap_words)


def test_the_first_chunk_of_a_long_text_is_cut_without_reading_on(monkeypatch):
    read = []
    monkeypatch.setattr(cutting, "chunk_text", lambda text, *sizes: read.append(len(text)) or chunk_text(text, *sizes))
    chunks = cutting.cut("Some words of a sentence. " * 40_000, 50, 0)
    for _ in range(3):
        next(chunks)
    assert sum(read) <= 2 * cutting.WINDOW
