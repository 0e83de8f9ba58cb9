"""A text to words, sentences and chunks, with offsets. Standard library only.

Nothing here changes the text: lower-casing or normalising changes lengths ("İ" becomes two characters), and then no
offset would point where it should. Every pattern matches in time linear in the length of the text.
"""

import re
import unicodedata
from collections import namedtuple
from typing import Any

Chunk = namedtuple("Chunk", ["start", "end"])
Chunk.__doc__ = "A piece `text[start:end]`, in characters."


def _ranges(categories):
    """Body of a character class with all characters of the Unicode categories, which `re` has no name for."""
    spans = []
    for block in (range(0xAD, 0x1E94B), range(0xE0001, 0xE01F0)):  # marks and format characters lie in these
        for code in block:
            if unicodedata.category(chr(code)) in categories:
                if spans and spans[-1][1] == code - 1:
                    spans[-1][1] = code
                else:
                    spans.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)


_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # written without spaces: a word each
_MARKS, _FORMAT = _ranges({"Mn", "Mc", "Me"}), _ranges({"Cf"})
_VARIANTS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"  # select the look of the character before
_JAMO_FILLERS, _BLANK_LETTERS = "\u115f\u1160", "\u3164\uffa0\U00013441\U00013442"
_NO_LETTERS = _HAN + _JAMO_FILLERS + _BLANK_LETTERS
# A tagged word: letters and digits with their accents, joined across zero-width characters; or one character of Han,
# punctuation or anything else. "other" is what may be invisible. The first line finds most words, three times as fast.
_TAG_WORD = re.compile(
    r"[0-9A-Za-z]+(?![0-9A-Za-z]|[^\x00-\x7f])"
    rf"|[{_HAN}][{_MARKS}]*"
    rf"|[^\W_{_NO_LETTERS}](?:[{_FORMAT}{_JAMO_FILLERS}]*(?:[^\W_{_NO_LETTERS}]|[{_MARKS}]))*"
    rf"|(?:[!-/:-@\[-`{{-~]|(?P<other>\S))[{_VARIANTS}]*"
)
# Characters that show nothing though their category does not say so: joiners, variation selectors, fillers, blanks.
_INVISIBLE = re.compile(
    "[\u034f\u17b4\u17b5\u180b-\u180d\u180f\u2800\U00016fe4\U0001d159"
    + _VARIANTS
    + _JAMO_FILLERS
    + _BLANK_LETTERS
    + "]"
)
# Format characters that show a sign around the digits or letters behind them, such as the Arabic end of ayah.
_VISIBLE_FORMAT = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
# A counted word, as people count: what stands between white space, and every Han character.
_FULL_STOP = "(?:[。！？｡]+[”’»)\\]}›」』]*)"
_COUNTED_WORD = re.compile(rf"(?:[{_HAN}]|[^\s{_HAN}。！？｡]+){_FULL_STOP}?|{_FULL_STOP}")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_FINAL, _CLOSING = ".!?…。！？｡؟।", "\"'”’»)]}›」』*_"
_LAST = frozenset(_FINAL + _CLOSING)  # what the last word of a sentence can end in
_ABBREVIATIONS = frozenset(
    """al approx apr aug bzw capt cf co col corp d.h dec dept dr e.g est etc feb fig ft gen gov hon i.e inc jan jr jul
    jun ltd mar mlle mme mr mrs ms mt no nov oct prof rep rev sen sep sept sgt sr sra sres st vs z.b""".split()
)


def tag_words(text: str) -> list[tuple[int, int]]:
    """`[(start, end), ...]` of the words that carry tags: punctuation marks and Han characters stand alone.

    Every visible character lies in exactly one word. A control character, zero-width space or blank is part of a word
    only where it stands within one.
    """
    words = _TAG_WORD.finditer(text)
    return [word.span() for word in words if word.lastgroup is None or _is_visible(word["other"])]


def _is_visible(character):
    if _INVISIBLE.match(character):
        return False
    category = unicodedata.category(character)
    if category == "Cf":
        return character in _VISIBLE_FORMAT
    # Code points that Python's tables do not know show nothing, except those that Unicode keeps for new emoji.
    return category != "Cc" and (category != "Cn" or "\U0001f000" <= character <= "\U0001fffd")


def chunk_text(text, max_words=50, overlap_words=0):
    """Packs the sentences of a text into chunks.

    A sentence of more than `max_words` words is split at a word, after a comma or the like where one stands in the
    second half of what fits. Every character that is not white space lies in exactly one chunk, or in more with an
    overlap.

    Args:
        text: Any string.
        max_words: Words a chunk holds at most; words are counted between white space, Han characters singly.
        overlap_words: Words before a chunk that are repeated in it as context; they count as its words.

    Returns:
        List of `Chunk`, in order; empty for a text of white space.

    Raises:
        ValueError: `max_words` < 1, or `overlap_words` not in 0 to `max_words` - 1.
    """
    check_chunk_sizes(max_words, overlap_words)
    words = [match.span() for match in _COUNTED_WORD.finditer(text)]
    budget = max_words - overlap_words
    if 0 < len(words) <= budget:  # most texts are short: no need to look for sentences
        return [Chunk(words[0][0], words[-1][1])]
    chunks, first = [], 0

    def close(end):
        chunks.append(Chunk(words[max(first - overlap_words, 0)][0], words[end - 1][1]))

    begin = 0
    for end in _sentence_ends(text, words):
        if end - first > budget and begin > first:  # the sentence does not fit behind those before it
            close(begin)
            first = begin
        while end - first > budget:
            cut = _clause_end(text, words, first, first + budget)
            close(cut)
            first = cut
        begin = end
    if first < len(words):
        close(len(words))
    return chunks


def word_starts(text):
    """Where each word begins that `chunk_text` counts."""
    return [match.start() for match in _COUNTED_WORD.finditer(text)]


def check_chunk_sizes(max_words, overlap_words):
    """Raises ValueError where `chunk_text` cannot work with these sizes."""
    check_whole_number("max_words", max_words, 1)
    check_whole_number("overlap_words", overlap_words, 0)
    if overlap_words >= max_words:
        raise ValueError(f"overlap_words ({overlap_words}) must be smaller than max_words ({max_words})")


def check_options(aggregation="max", top_k=None, threshold=0.0, entity_threshold=0.0, return_chunks=False):
    """Raises ValueError unless the pipeline can shape its answer by these parameters."""
    if aggregation not in ("max", "mean", "vote"):
        raise ValueError(f"aggregation must be 'max', 'mean' or 'vote', not {aggregation!r:.100}")
    if top_k is not None:
        check_whole_number("top_k", top_k, 1)
    check_number("threshold", threshold, 0, 1)
    check_number("entity_threshold", entity_threshold, 0, 1)
    if not isinstance(return_chunks, bool):
        raise ValueError(f"return_chunks must be True or False, not {return_chunks!r:.100}")


def check_whole_number(name: str, value: Any, low: int) -> None:
    """Raises ValueError, which names the parameter, unless the value is an int of at least `low`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be a whole number >= {low}, not {value!r:.100}")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raises ValueError, which names the parameter, unless the value is an int or float from `low` to `high`."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, not {value!r:.100}")


def _sentence_ends(text, words):
    """Yields, for each sentence, the number of words up to its end."""
    following = [start for start, _ in words[1:]] + [len(text)]
    for i, ((start, end), next_start) in enumerate(zip(words, following), start=1):
        # The two cheap looks rule out nearly every word.
        if (
            i == len(words)
            or (text[end - 1] in _LAST and _ends_sentence(text[start:end]))
            or (next_start > end + 1 and _BLANK_LINE.search(text, end, next_start))
        ):
            yield i


def _ends_sentence(word):
    bare = word.rstrip(_CLOSING)
    if not bare or bare[-1] not in _FINAL:
        return False
    if bare[-1] != ".":
        return True
    stem = bare[:-1].lstrip("(\"'“‘[«")
    # "J. Smith", "U.S. troops" and "Dr. Who" go on; cutting them would cut names in two.
    return not (
        len(stem) == 1 and stem.isalpha() or stem.lower() in _ABBREVIATIONS or re.fullmatch(r"(\w\.)+\w", stem)
    )


def _clause_end(text, words, first, limit):
    for cut in range(limit, first + (limit - first) // 2, -1):
        if text[words[cut - 1][1] - 1] in ",;:–—，、；：،":
            return cut
    return limit


def encode_chunks(texts, tokenizer, max_words, overlap_words=0, max_tokens=None):
    """Cuts texts into chunks and tokenizes them all in one call. No token is ever cut off.

    A chunk of more than `max_tokens` tokens is split at a word, a longer word at a token.

    Args:
        texts: List of strings.
        tokenizer: A fast tokenizer of transformers.
        max_words, overlap_words: See `chunk_text`.
        max_tokens: Tokens a chunk has at most, special tokens included; None for no limit.

    Returns:
        `(owners, chunks, encodings)`: the index into `texts` of each chunk, its `Chunk`, and its `Encoding`
        (`ids`, `type_ids`, `offsets` in characters of the chunk, ...). A text of white space has no chunk.
    """
    owners, chunks = [], []
    for i, text in enumerate(texts):
        found = chunk_text(text, max_words, overlap_words)
        owners += [i] * len(found)
        chunks += found
    while True:
        pieces = [_printable(texts[i][chunk.start : chunk.end]) for i, chunk in zip(owners, chunks)]
        # The Encodings themselves: to make lists of all that they hold takes longer than the tokenizer itself.
        fields = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        encodings = tokenizer(pieces, **fields).encodings if pieces else []
        if max_tokens is None or all(len(encoding) <= max_tokens for encoding in encodings):
            return owners, chunks, encodings
        split_owners, split_chunks = [], []
        for i, chunk, piece, encoding in zip(owners, chunks, pieces, encodings):
            parts = _split_at_tokens(piece, encoding.offsets, encoding.special_tokens_mask, max_tokens)
            split_owners += [i] * len(parts)
            split_chunks += [Chunk(chunk.start + a, chunk.start + b) for a, b in parts]
        if len(split_chunks) == len(chunks):
            raise ValueError(f"A single character needs more than the {max_tokens} tokens that the model takes.")
        owners, chunks = split_owners, split_chunks


def model_inputs(encoding):
    """What a model may read of an `Encoding`, a list of `(tokens,)` numbers each."""
    return {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}


def padding_values(tokenizer):
    """What stands behind the end of a row in a batch, by model input."""
    ids = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    return {**ids, "attention_mask": 0}


def token_limit(tokenizer, config):
    """Tokens that both the encoder and its tokenizer take, or None where neither has a limit."""
    limits = (config.max_tokens, tokenizer.model_max_length)
    return min((n for n in limits if n is not None and n < 10**6), default=None)  # 10**30 stands for "unknown"


def _printable(text):
    """Lone surrogates cannot be encoded for the tokenizer; the replacement keeps the length, so offsets hold."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _split_at_tokens(text, offsets, special, max_tokens):
    """`[(start, end), ...]` that cover `text`, of at most `max_tokens` tokens each as far as tokens can tell."""
    starts = [start for (start, _), is_special in zip(offsets, special) if not is_special]
    limit = max(max_tokens - (len(offsets) - len(starts)), 1)
    cuts, first = [0], 0
    while len(starts) - first > limit:
        # Tokens of no width (a trailing space, one character in several tokens) are no place to cut.
        places = [k for k in range(first + limit, first, -1) if cuts[-1] < starts[k] < len(text)]
        # A word begins where white space ends; some tokenizers count the space before a word as the token's.
        words = [k for k in places if text[starts[k] - 1].isspace() or text[starts[k]].isspace()]
        beyond = (k for k in range(first + limit + 1, len(starts)) if cuts[-1] < starts[k] < len(text))
        first = next(iter(words or places or beyond), None)
        if first is None:
            break
        cuts.append(starts[first])
    # White space at a cut would be a token of its own in some tokenizers, and one too many.
    parts = ((start, text[start:end]) for start, end in zip(cuts, [*cuts[1:], len(text)]))
    return [(start + len(p) - len(p.lstrip()), start + len(p.rstrip())) for start, p in parts if p.strip()]
