"""A long text to its chunks, one after the other: the chunks of `chunk_text`, without reading all of it at once."""

from collections import deque
from collections.abc import Iterator

from chunking_tsn import Chunk, chunk_text, word_starts

WINDOW = 4000  # characters that are read at a time; doubled where they hold less than two chunks


def cut(text: str, max_words: int, overlap_words: int) -> Iterator[Chunk]:
    """Yields what `chunk_text` returns, reading a window of the text at a time.

    Where a chunk ends depends only on where it begins and on the sentences up to the one that no longer fits. So all
    chunks of a window are those of the text but the last, which may go on: the next window begins with it.
    """
    start, window = 0, WINDOW
    before: deque[int] = deque(maxlen=overlap_words)  # where the words before the next chunk begin
    while True:
        last = start + window >= len(text)
        part = text[start : start + window]
        chunks = chunk_text(part, max_words - overlap_words)
        if not last and len(chunks) < 2:
            if chunks:
                window *= 2
            else:
                start += window
            continue
        for chunk in chunks if last else chunks[:-1]:
            first, end = start + chunk.start, start + chunk.end
            yield Chunk(before[0] if before else first, end)
            if overlap_words:
                before.extend(first + word for word in word_starts(text[first:end]))
        if last:
            return
        start, window = start + chunks[-1].start, WINDOW
