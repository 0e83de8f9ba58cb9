"""Words, tags and spans: alignment of words with tokens, tag schemes, and decoding under a scheme's rules.

BIOES (Begin, Inside, Outside, End, Single; Ratinov and Roth, 2009, "Design Challenges and Misconceptions in Named
Entity Recognition", there called BILOU) marks both borders of a span. IO marks its type alone. numpy only.
"""

from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

NEG_INF = -np.inf  # of what is forbidden: no logit outweighs it
LARGEST = 1e38  # of a logit; the difference of two such is one that float32 holds


def bioes_labels(types):
    """Tags of the BIOES scheme over `types`, `O` first: `["O", "B-PER", "I-PER", "E-PER", "S-PER", ...]`."""
    return ["O", *(f"{prefix}-{name}" for name in types for prefix in "BIES")]


class TagScheme:
    """A list of tags with the rules of its scheme.

    Args:
        labels: The tags in the order of the logits: `O` and, for each type, `B-`, `I-`, `E-` and `S-` followed by its
            name (`"BIOES"`), or its bare name (`"IO"`).
        scheme: `"BIOES"` or `"IO"`.

    Attributes:
        types: Names of the types, in the order in which the labels name them first.
        tag_types: `(tags,)` int array, the index of each tag's type in `types`; -1 for `O`.

    Raises:
        ValueError: the labels are not those of the scheme.
    """

    def __init__(self, labels, scheme):
        labels = list(labels)
        if scheme not in ("BIOES", "IO"):
            raise ValueError(f"The tag scheme must be 'BIOES' or 'IO', not {scheme!r}")
        if not all(isinstance(label, str) and label for label in labels) or len(set(labels)) != len(labels):
            raise ValueError(f"Tags must be different, non-empty strings, not {labels}")
        if "O" not in labels or len(labels) < 2:
            raise ValueError(f"Tags must hold 'O' and at least one type, not {labels}")
        self.labels, self.scheme = labels, scheme
        pairs = [("O", None) if label == "O" else self._split(label) for label in labels]
        self.types = list(dict.fromkeys(name for _, name in pairs if name is not None))
        if scheme == "BIOES" and len(labels) != 1 + 4 * len(self.types):
            raise ValueError(f"BIOES needs B-, I-, E- and S- of every type, got {labels}")
        self._index = {pair: i for i, pair in enumerate(pairs)}
        self._prefix = np.array([prefix for prefix, _ in pairs])  # (tags,)
        self.tag_types = np.array([-1 if name is None else self.types.index(name) for _, name in pairs])  # (tags,)
        inside = np.isin(self._prefix, ["B", "I"])  # a span goes on after this tag
        continues = np.isin(self._prefix, ["I", "E"])  # a span was open before this tag
        same_type = self.tag_types[:, None] == self.tag_types[None, :]
        if scheme == "BIOES":
            allowed = np.where(inside[:, None], continues[None, :] & same_type, ~continues[None, :])
            self._start, self._end = np.where(continues, NEG_INF, 0.0), np.where(inside, NEG_INF, 0.0)
        else:
            allowed = np.ones((len(labels), len(labels)), dtype=bool)
            self._start = self._end = np.zeros(len(labels))
        self._transitions = np.where(allowed, 0.0, NEG_INF)  # (from, to)

    def _split(self, label):
        if self.scheme == "IO":
            return "I", label
        prefix, _, name = label.partition("-")
        if prefix not in ("B", "I", "E", "S") or not name:
            raise ValueError(f"{label!r} is not a BIOES tag: B-, I-, E- or S- and a type, or O")
        return prefix, name

    def encode(self, spans, length):
        """Spans to tags.

        Args:
            spans: `(first, end, type)` in words, `end` exclusive, not overlapping.
            length: Number of words.

        Returns:
            `(length,)` int64 array of tag indices.

        Raises:
            ValueError: a span is empty, outside the text or overlaps another, or its type is unknown.
        """
        tags = np.full(length, self._index[("O", None)], dtype=np.int64)
        taken = np.zeros(length, dtype=bool)
        for first, end, name in spans:
            if name not in self.types:
                raise ValueError(f"{name!r} is not a type of this scheme: {', '.join(self.types)}")
            if not 0 <= first < end <= length:
                raise ValueError(f"The span {first}:{end} is empty or outside 0:{length}")
            if taken[first:end].any():
                raise ValueError(f"The span {first}:{end} overlaps another")
            taken[first:end] = True
            if self.scheme == "IO":
                tags[first:end] = self._index[("I", name)]
            elif end - first == 1:
                tags[first] = self._index[("S", name)]
            else:
                tags[first:end] = self._index[("I", name)]
                tags[first], tags[end - 1] = self._index[("B", name)], self._index[("E", name)]
        return tags

    def viterbi(self, log_probs, lengths):
        """The best tag sequences that the scheme allows (Viterbi, 1967), for a whole batch at once.

        Args:
            log_probs: `(batch, words, tags)` log-probabilities or logits; what lies behind a row's length is not read.
            lengths: `(batch,)` number of words of each row.

        Returns:
            `(batch, words)` int64 array of tag indices, `O` behind each row's length.
        """
        # A probability of 0 must still be dearer to avoid than a forbidden transition.
        log_probs, lengths = _finite(np.asarray(log_probs, dtype=np.float64)), np.asarray(lengths)
        batch, words, tags = log_probs.shape
        outside = self._index[("O", None)]
        path = np.empty((batch, words), dtype=np.int64)
        if path.size == 0:
            return path
        inside = np.arange(words) < lengths[:, None]  # (batch, words)
        if self.scheme == "IO":  # every transition is allowed
            return np.where(inside, log_probs.argmax(-1), outside)
        order = np.argsort(-lengths, kind="stable")  # the longest first: those that have a word i are the first ones
        going_on = np.searchsorted(-lengths[order], -np.arange(words))  # (words,) how many they are
        log_probs, rows = log_probs[order], np.arange(batch)
        back = np.tile(np.arange(tags), (words, batch, 1))  # (words, batch, tags) behind its end, a row keeps its tag
        score = self._start + log_probs[:, 0]  # (batch, tags)
        for i in range(1, words):
            live = going_on[i]
            candidates = score[:live, :, None] + self._transitions  # (live, from, to)
            back[i, :live] = candidates.argmax(1)
            score[:live] = candidates.max(1) + log_probs[:live, i]
        best = (score + self._end).argmax(-1)  # (batch,)
        for i in range(words - 1, -1, -1):
            path[order, i] = best
            best = back[i, rows, best]
        return np.where(inside, path, outside)

    def best_spans(self, logits, lengths):
        """The spans of the best well-formed tag sequence of each row, with their scores.

        Where the best tag of every word makes a well-formed row, no other sequence can be better; the rest, a few in a
        hundred with a trained model, go through `viterbi`.

        Args:
            logits: `(words, tags)`, all rows one behind the other.
            lengths: `(rows,)` number of words of each row.

        Returns:
            `(row, first, end, type, score)` arrays of shape `(spans,)`, as `decode` gives them; `score` is the mean
            over the span's words of the probability of its tags, float32.
        """
        logits, lengths = _finite(logits), np.asarray(lengths)
        inside = np.arange(max(lengths, default=0)) < lengths[:, None]  # (rows, longest)
        tags = np.full(inside.shape, self._index[("O", None)], dtype=np.int64)  # (rows, longest)
        tags[inside] = logits.argmax(-1)
        broken = ~self._well_formed(tags)  # (rows,)
        if broken.any():
            longest = lengths[broken].max()
            padded = np.zeros((broken.sum(), longest, len(self.labels)), dtype=logits.dtype)  # (broken, words, tags)
            padded[inside[broken, :longest]] = logits[np.repeat(broken, lengths)]
            tags[broken, :longest] = self.viterbi(padded, lengths[broken])
        row, first, end, kind = self.decode(tags)
        shifted = np.exp(logits - logits.max(-1, keepdims=True))  # (words, tags)
        chosen = np.take_along_axis(shifted, tags[inside][:, None], 1)[:, 0] / shifted.sum(-1)  # (words,)
        offset = (np.cumsum(lengths) - lengths)[row]  # (spans,)
        borders = np.stack([offset + first, offset + end], axis=1).ravel()  # sums between every second pair are unused
        totals = np.add.reduceat(np.append(chosen, 0), borders)[::2] if len(row) else np.zeros(0)
        return row, first, end, kind, (totals / (end - first)).astype(np.float32)

    def _well_formed(self, tags):
        """`(rows,)` whether the scheme allows each row of `tags`, `(rows, longest)`, which is `O` behind its end."""
        if tags.size == 0:
            return np.ones(len(tags), dtype=bool)
        steps = self._transitions[tags[:, :-1], tags[:, 1:]]  # (rows, longest - 1); to O, so no span is left open
        return (self._start[tags[:, 0]] == 0) & (self._end[tags[:, -1]] == 0) & (steps == 0).all(1)

    def decode(self, tags):
        """Tags to spans, for a whole batch at once; the tags must be well-formed, as `viterbi` and `encode` give them.

        Args:
            tags: `(batch, words)` tag indices.

        Returns:
            `(row, first, end, type)` int64 arrays of shape `(spans,)`, in order of row and place; `first` and `end`
            are words, `end` exclusive, and `type` indexes `self.types`.
        """
        tags = np.asarray(tags)
        prefix, kind = self._prefix[tags], self.tag_types[tags]  # (batch, words)
        if self.scheme == "IO":
            edge = np.full((len(tags), 1), -1)
            starts = (kind >= 0) & (kind != np.hstack([edge, kind[:, :-1]]))
            ends = (kind >= 0) & (kind != np.hstack([kind[:, 1:], edge]))
        else:
            starts, ends = np.isin(prefix, ["B", "S"]), np.isin(prefix, ["E", "S"])
        row, first = np.nonzero(starts)
        return row, first, np.nonzero(ends)[1] + 1, kind[row, first]


def _finite(logits):
    """NaN as the lowest number: a maximum over NaN would choose what is forbidden."""
    return np.clip(np.nan_to_num(logits, nan=-LARGEST), -LARGEST, LARGEST)


def first_subtokens(words, offsets):
    """Aligns words with tokens: a tag sits on the first sub-token of each word.

    A token that begins in one word and reaches into the next ("U.S" of "U.S.") joins them to one unit. Words without a
    token of their own (control characters, which tokenizers drop) belong to no unit.

    Args:
        words: `(words, 2)` start and end of each word, in characters.
        offsets: `(tokens, 2)` start and end of each token, `(0, 0)` for special tokens and padding.

    Returns:
        `(positions, spans)`: `(units,)` indices of the tokens that carry a tag, and `(units, 2)` start and end of the
        unit in characters.
    """
    words = np.asarray(words, dtype=np.int64).reshape(-1, 2)
    offsets = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    positions = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    if not len(words) or not len(positions):
        return np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int64)
    starts, ends = offsets[positions].T  # (tokens,)
    word = np.searchsorted(words[:, 0], starts, side="right") - 1  # the last word that begins at or before the token
    # Some tokenizers count the space before a word as the token's.
    in_gap = (word < 0) | (starts >= words[word, 1])
    following = np.minimum(word + 1, len(words) - 1)
    word = np.where(in_gap, following, word)
    real = ~in_gap | ((words[following, 0] < ends) & (words[following, 0] >= starts))
    positions, ends, word = positions[real], ends[real], word[real]
    if not len(positions):
        return np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int64)
    # The last word that each token and those before it reach; a token in a later word begins a unit.
    last = np.maximum(np.searchsorted(words[:, 0], ends - 1, side="right") - 1, word)
    last = np.maximum.accumulate(last)
    first = np.flatnonzero(word > np.concatenate([[-1], last[:-1]]))
    last_word = np.maximum.reduceat(last, first)
    return positions[first], np.stack([words[word[first], 0], words[last_word, 1]], axis=1)


@dataclass(frozen=True)
class Chunks:
    """The chunks of several texts: what the model reads, and what decoding needs.

    Tokens and words of all chunks are concatenated in the order of the chunks.
    """

    texts: list[str]
    owners: np.ndarray  # (chunks,) index of the text that each chunk is from
    borders: np.ndarray  # (chunks, 2) start and end in that text
    token_counts: np.ndarray  # (chunks,)
    word_counts: np.ndarray  # (chunks,)
    inputs: dict[str, np.ndarray]  # (all tokens,) each
    positions: np.ndarray  # (all words,) the token of its chunk that carries each word's tags
    spans: np.ndarray  # (all words, 2) start and end in the text

    @property
    def first_tokens(self) -> np.ndarray:
        """`(chunks,)` where the tokens of each chunk begin."""
        return np.cumsum(self.token_counts) - self.token_counts

    @property
    def first_words(self) -> np.ndarray:
        """`(chunks,)` where the words of each chunk begin."""
        return np.cumsum(self.word_counts) - self.word_counts

    @classmethod
    def aligned(cls, texts: list[str], owners, borders, words, encodings, input_names) -> "Chunks":
        """Aligns the words of all chunks with their tokens; leaves out chunks without a word.

        Args:
            texts: The texts.
            owners, borders, encodings: Index of the text, `(start, end)` in it and `Encoding` of each chunk, see
                `encode_chunks`.
            words: For each chunk `(start, end)` of its words, in characters of the chunk.
            input_names: What the model reads of an encoding.
        """
        owners = np.array(owners, dtype=np.int64)  # (chunks,)
        borders = np.array(borders, dtype=np.int64).reshape(-1, 2)  # (chunks, 2)
        starts, ends = borders.T  # (chunks,)
        tokens = np.array([len(encoding) for encoding in encodings], dtype=np.int64)  # (chunks,)
        # All chunks at once, as if they stood in one text with a gap behind each.
        shift = np.concatenate([[0], np.cumsum(ends - starts + 1)])[:-1].astype(np.int64)  # (chunks,)
        spans = _flat(chain.from_iterable(chain.from_iterable(words))).reshape(-1, 2)
        spans += np.repeat(shift, [len(pairs) for pairs in words])[:, None]
        offsets = _flat(chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))).reshape(-1, 2)
        chunk_of = np.repeat(np.arange(len(owners)), tokens)  # (all tokens,)
        positions, spans = first_subtokens(spans, offsets + shift[chunk_of][:, None])
        chunk_of = chunk_of[positions]  # (all words,)
        word_counts = np.bincount(chunk_of, minlength=len(owners))  # (chunks,)
        # A chunk without a word, such as a zero-width space, has nothing to tag and no sentiment.
        kept = word_counts > 0
        token_kept = np.repeat(kept, tokens)  # (all tokens,)
        fields = {"input_ids": lambda e: e.ids, "token_type_ids": lambda e: e.type_ids}
        return cls(
            texts=texts,
            owners=owners[kept],
            borders=borders[kept],
            token_counts=tokens[kept],
            word_counts=word_counts[kept],
            inputs={
                name: _flat(chain.from_iterable(map(read, encodings)))[token_kept]
                for name, read in fields.items()
                if name in input_names
            },
            positions=positions - (np.cumsum(tokens) - tokens)[chunk_of],
            spans=spans + (starts - shift)[chunk_of][:, None],
        )


class Span(NamedTuple):
    """A topic or an entity of a text."""

    start: int
    end: int
    type: str
    score: float
    sentiments: np.ndarray  # (classes,) probabilities


@dataclass(frozen=True)
class TextAnalysis:
    """What the model says of one text, before the caller's options apply."""

    text: str
    topics: list[Span]
    entities: list[Span]
    sentiments: np.ndarray  # (chunks, classes) probabilities
    borders: np.ndarray  # (chunks, 2) start and end


def without_overlaps(spans: list[Span]) -> list[Span]:
    """Spans of all chunks in text order; of those that overlap, where chunks repeat words, the longest is kept."""
    kept, last_end = [], -1
    for span in sorted(spans, key=lambda s: (s.start, -s.end, -s.score)):
        if span.start >= last_end:
            kept.append(span)
            last_end = span.end
        elif span.end - span.start > kept[-1].end - kept[-1].start:
            kept[-1] = span
            last_end = span.end
    return kept


def _flat(numbers):
    return np.fromiter(numbers, dtype=np.int64)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """`(sum of lengths,)` the whole numbers from each start on, as many as its length, one range after the other."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def group_means(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """`(count, columns)` means of the rows of each group; no group is empty.

    Args:
        values: `(rows, columns)`.
        groups: `(rows,)` the group of each row.
        count: Number of groups.
    """
    sizes = np.bincount(groups, minlength=count)[:, None]  # (count, 1)
    columns = [np.bincount(groups, column, count) for column in values.T]  # (count,) each
    return np.stack(columns, axis=1) / sizes


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of the classes in the last dimension."""
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)
