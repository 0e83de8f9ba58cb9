"""`chunking_tsn.py`: no character is lost, doubled or cut off, whatever the text holds."""

import sys
import unicodedata

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import processors

from chunking_tsn import Chunk, chunk_text, encode_chunks, tag_words, token_limit
from tests.conftest import TEXTS, make_byte_tokenizer

HAN = ["東京", "你好。", "这是一句话！", "𠀀", "天。”他", "。"]
SPACES = [" ", "  ", "\n", "\n\n", "\n \t\n", "\t", "\r\n", "\xa0", "\u2028", "\u3000", "\x1c"]
ATOMS = [
    *("\x00", "\x07", "\ud800", "\udfff", "\u200b", "\u200d", "\ufeff", "\xad", "\u202e", "\u0301"),
    *("e\u0301", "\ufe0f", "𝒳", "naïve", "🙂", "👩\u200d💻", "👍🏽", "🇨🇴"),
    *("مرحبا", "سلام؟", "كِتَاب", "שלום", "हिन्दी।", "한국어", "ไทย", "İ", "ß", "ﬁ"),
    *("word", "Customers love", "Dr.", "U.S.", "J.", "e.g.", "...", ".", "!", "?”", ",", '"', "(", "'", "'s", "_"),
    *("1.5", "x" * 70, "don't", "€100", "a\u200bb", "C++"),
]  # fmt: skip
ANY = st.text(st.characters(exclude_categories=()), max_size=4)  # lone surrogates too
nasty_texts = st.lists(st.sampled_from(ATOMS + SPACES * 4 + HAN) | ANY, max_size=40).map("".join)
spaced_texts = st.lists(st.sampled_from(ATOMS + SPACES * 4), max_size=40).map("".join)


def printed(text):
    """Places of the characters that are not white space."""
    return [i for i, char in enumerate(text) if not char.isspace()]


def covered(text, spans):
    """The same, of all spans one after the other, doubles included."""
    return [i for start, end in spans for i in range(start, end) if not text[i].isspace()]


def pieces(text, chunks):
    return [text[chunk.start : chunk.end] for chunk in chunks]


def encodable(text):
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


# Words and sentences


# Alone they look like an empty cell: one or more of each category and property, and what people paste to look empty.
UNSEEN = [
    *("\u200b", "\u200d", "\u2060", "\ufeff", "\xad", "\u200e", "\u200f", "\u202e", "\u2066", "\u061c", "\u180e"),
    *("\x00", "\x07", "\x1b", "\x7f", "\x9f", "\ufff9", "\U000e0001", "\U000e0061", "\U0001d173", "\U0001bca0"),
    *("\u2800", "\u3164", "\uffa0", "\u115f", "\u1160", "\u034f", "\u17b4", "\u180b", "\ufe0f", "\U000e0100"),
    *("\uffff", "\ufdd0", "\u2065", "\u0378", "\U000effff", "\U0010ffff", "\U0001d159"),
]  # fmt: skip
SEEN = [
    "!",
    "_",
    "…",
    "。",
    "€",
    "🙂",
    "🫨",
    "👍🏽",
    "\u0301",
    "\u06dd",
    "\ue000",
    "\ufffd",
    "\ufffc",
    "\ud800",
    "␣",
    "a",
    "東",
]


# Unicode keeps these for Han characters and emoji: one that is newer than Python's tables is seen all the same.
KEPT = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af\U0001f000-\U0001fffd"
UNASSIGNED = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == "Cn")
HIDDEN = regex.compile(
    r"\s|\p{Cc}|\p{Default_Ignorable_Code_Point}|[\u2800\U0001d159\U00016fe4\U00013441\U00013442]"
    rf"|[\p{{Cf}}--\p{{Prepended_Concatenation_Mark}}]|[\p{{Cn}}--[{KEPT}]]",
    regex.VERSION1,
)
NOT_YET = frozenset(UNASSIGNED) - frozenset(regex.findall(f"[{KEPT}]", UNASSIGNED))


def visible(text):
    """Places of the characters that are seen, by the Unicode properties that the `regex` package knows."""
    hidden = {match.start() for match in HIDDEN.finditer(text)}
    return [i for i, char in enumerate(text) if i not in hidden and char not in NOT_YET]


@given(st.lists(st.sampled_from(ATOMS + SPACES * 4 + HAN + UNSEEN + SEEN) | ANY, max_size=40).map("".join))
def test_tag_words_cover_every_visible_character_once(text):
    spans = tag_words(text)
    inside = covered(text, spans)
    assert inside == sorted(set(inside)) and set(inside) >= set(visible(text))
    for start, end in spans:
        assert set(range(start, end)) & set(visible(text)), "a word shows something"
    assert all(text[start:end] and not any(c.isspace() for c in text[start:end]) for start, end in spans)


def test_every_character_alone_is_a_word_if_it_is_seen():
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert [i for i, c in enumerate(everything) if tag_words(c)] == visible(everything)


@pytest.mark.parametrize("unseen", UNSEEN)
def test_what_looks_empty_has_no_word(unseen):
    assert tag_words(unseen) == tag_words(f" {unseen}\n{unseen}{unseen} ") == []
    assert tag_words(f"{unseen}Ana {unseen} Torres{unseen}!") in (
        [(1, 4), (7, 13), (14, 15)],
        [(1, 4), (7, 14), (14, 15)],  # a mark belongs to the letter before it
    )


@pytest.mark.parametrize("seen", SEEN)
def test_what_shows_anything_is_a_word(seen):
    assert tag_words(seen)[0][0] == 0 and tag_words(f"\u200b {seen}\ufeff")[0][0] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I ❤\ufe0f #\ufe0f 1\ufe0f\u20e3", "I ❤\ufe0f #\ufe0f 1\ufe0f\u20e3"),
        ("Don't panic, e-mail me.", "Don ' t panic , e - mail me ."),
        ("snake_case 3.5kg", "snake _ case 3 . 5kg"),
        ("東京タワー", "東 京 タワー"),
        ("cafe\u0301s naïve", "cafe\u0301s naïve"),
        ("می\u200cخواهم كِتَاب", "می\u200cخواهم كِتَاب"),  # a zero-width non-joiner within a Persian word
        ("हिन्दी।", "हिन्दी ।"),
        ("İstanbul €100", "İstanbul € 100"),
        (" \t\n", ""),
    ],
)
def test_tag_words_of_languages(text, words):
    assert [text[start:end] for start, end in tag_words(text)] == words.split()


def test_every_mark_and_format_character_stays_in_its_word():
    """The module builds its character classes from ranges; here every character of Unicode is asked for."""
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Mn", "Mc", "Me", "Cf"):
            assert tag_words(f"a{chr(code)}b") == [(0, 3)], hex(code)


@pytest.mark.parametrize(
    ("text", "max_words", "expected"),
    [
        ("One two. Three four. Five six.", 6, ["One two. Three four. Five six."]),
        ("One two. Three four. Five six.", 5, ["One two. Three four.", "Five six."]),
        ("One two. Three four. Five six.", 3, ["One two.", "Three four.", "Five six."]),
        # what would fit behind the first sentence shows whether a second one ends too early
        ("He ran. Dr. Smith left.", 4, ["He ran.", "Dr. Smith left."]),
        ("He ran. J. R. Tolkien sat.", 5, ["He ran.", "J. R. Tolkien sat."]),
        ("They won. (U.S. troops left.)", 4, ["They won.", "(U.S. troops left.)"]),
        ("Eat well. E.g. an apple.", 4, ["Eat well.", "E.g. an apple."]),
        ("It is new. Version 1.5 works.", 5, ["It is new.", "Version 1.5 works."]),
        ('Go on. He said "Stop." Then left.', 4, ["Go on.", 'He said "Stop."', "Then left."]),
        ("So why?! Because... I can.", 4, ["So why?! Because...", "I can."]),
        ("Title\n\nBody of it.", 3, ["Title", "Body of it."]),
        ("Title\r\n \t\r\nBody of it.", 3, ["Title", "Body of it."]),
        ("Title\nBody of it.", 3, ["Title\nBody of", "it."]),  # a line break alone ends nothing
        ("هل وصلت؟ نعم وصلت.", 3, ["هل وصلت؟", "نعم وصلت."]),
        ("你好世界。今天很好。", 7, ["你好世界。", "今天很好。"]),
        ("“你好。”他说。", 4, ["“你好。”", "他说。"]),
        ("alpha beta gamma, delta epsilon zeta", 4, ["alpha beta gamma,", "delta epsilon zeta"]),
        ("alpha, beta gamma delta epsilon", 4, ["alpha, beta gamma delta", "epsilon"]),  # too early a comma
        ("  \n one  two \t", 1, ["one", "two"]),
        (" \n\t\u3000", 5, []),
        ("", 5, []),
    ],
)
def test_sentences_are_packed(text, max_words, expected):
    assert pieces(text, chunk_text(text, max_words)) == expected


def test_overlap_of_a_worked_example():
    assert pieces("a b c d e f g", chunk_text("a b c d e f g", 4, 2)) == ["a b", "a b c d", "c d e f", "e f g"]


# Chunks


@given(nasty_texts, st.integers(1, 12))
@example("a" * 5000, 1)
def test_chunks_partition_the_text(text, max_words):
    chunks = chunk_text(text, max_words)
    assert covered(text, chunks) == printed(text)  # in order and once
    for piece in pieces(text, chunks):
        assert piece and piece == piece.strip()
        assert len(piece.split()) <= max_words
        assert sum(unicodedata.name(char, "").startswith("CJK UNIFIED") for char in piece) <= max_words


@given(spaced_texts, st.integers(1, 12))
def test_words_between_white_space_stay_whole_and_chunks_are_full(text, max_words):
    chunks = [piece.split() for piece in pieces(text, chunk_text(text, max_words))]
    assert sum(chunks, []) == text.split()
    # Two neighbours, the first of which ends no sentence, can both be short only if a clause ended in the first.
    for left, right in zip(chunks, chunks[1:]):
        assert 2 * len(left) >= max_words or left[-1][-1] in ".!?…。؟।\"”’)_*'" or "\n" in text or len(right) > 1


@given(spaced_texts, st.integers(1, 12), st.data())
def test_overlap_repeats_just_the_words_before(text, max_words, data):
    overlap = data.draw(st.integers(0, max_words - 1))
    chunks = chunk_text(text, max_words, overlap)
    assert set(covered(text, chunks)) == set(printed(text))
    previous_end = 0
    for chunk, piece in zip(chunks, pieces(text, chunks)):
        words = text[chunk.start : chunk.end].split()
        before = text[:previous_end].split()
        fresh = text[max(previous_end, chunk.start) : chunk.end].split()
        repeated = min(overlap, len(before))
        assert piece == piece.strip() and fresh and len(words) <= max_words
        assert words == before[len(before) - repeated :] + fresh
        previous_end = chunk.end
    assert text[previous_end:].strip() == ""


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 0), "max_words must be a whole number >= 1, not 0"),
        ((-3, 0), "max_words"),
        ((2.0, 0), "max_words .* not 2.0"),
        (("5", 0), "max_words .* not '5'"),
        ((True, 0), "max_words"),
        ((None, 0), "max_words"),
        ((5, -1), "overlap_words must be a whole number >= 0, not -1"),
        ((5, 1.5), "overlap_words"),
        ((5, 5), r"overlap_words \(5\) must be smaller than max_words \(5\)"),
    ],
)
def test_wrong_sizes(sizes, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        chunk_text("a b c", *sizes)
    with pytest.raises(ValueError, match=message):
        encode_chunks(["a b c"], tokenizer, *sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unit", "words", "more"),
    [
        (".", 1, 0),
        ("a.", 2, 0),
        ("\n ", 0, 0),
        ("\n\t\u3000", 0, 0),
        ("\u200b", 0, 0),
        ("a\u200b", 0, 1),  # one long word
        ("a\u0301\u200d(", 2, 0),
        ("。", 1, 0),
    ],
)
def test_a_megabyte_of_hostile_text_takes_linear_time(unit, words, more):
    """No clock: one quadratic pattern and this would take hours."""
    count = 10**6 // len(unit)
    text = f"b {unit * count} b"
    assert chunk_text(text, 3) == [(0, len(text))]
    assert len(tag_words(text)) == words * count + more + 2


# Tokens


class Patient:
    """A tokenizer that notices when it is called for ever: cutting that makes no progress also eats all memory."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls = tokenizer, 0

    def __call__(self, texts, **kwargs):
        self.calls += 1
        assert self.calls < 30, "cut again and again without an end"
        return self.tokenizer(texts, **kwargs)


@pytest.fixture(scope="module", params=["wordpiece", "bytes", "bytes, spaces counted"])
def any_tokenizer(request, tokenizer, byte_tokenizer):
    if request.param == "wordpiece":
        return tokenizer
    if request.param == "bytes":
        return byte_tokenizer
    counting = make_byte_tokenizer()  # in DeBERTa's manner: the space before a word lies in the word's first token
    counting.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=False
    )
    return counting


@given(texts=st.lists(nasty_texts, max_size=3), max_words=st.integers(1, 30), max_tokens=st.sampled_from([8, 13, 64]))
def test_no_chunk_is_too_long_and_no_token_is_cut_off(any_tokenizer, texts, max_words, max_tokens):
    owners, chunks, encodings = encode_chunks(texts, Patient(any_tokenizer), max_words, max_tokens=max_tokens)
    assert owners == sorted(owners) and len(owners) == len(chunks)
    for i, text in enumerate(texts):
        rows = [k for k, owner in enumerate(owners) if owner == i]
        assert covered(text, [chunks[k] for k in rows]) == printed(text)
        tokenized = set()
        for k in rows:
            start, end = chunks[k]
            whole = any_tokenizer(encodable(text[start:end]), return_offsets_mapping=True, truncation=False)
            assert encodings[k].ids == whole["input_ids"]
            assert encodings[k].offsets == whole["offset_mapping"]
            assert len(whole["input_ids"]) <= max_tokens and len(text[start:end].split()) <= max_words
            tokenized.update(start + i for a, b in whole["offset_mapping"] for i in range(a, b))
        # A character that is a token when alone has to be in a token here: control characters are not.
        kept = {char for char in set(text) if len(any_tokenizer(encodable(char))["input_ids"]) > 2}
        assert not [i for i in printed(text) if text[i] in kept and i not in tokenized]


@given(texts=st.lists(spaced_texts, max_size=3), max_words=st.integers(2, 12))
def test_without_a_token_limit_chunks_are_those_of_the_text(tokenizer, texts, max_words):
    owners, chunks, encodings = encode_chunks(texts, tokenizer, max_words, 1)
    assert list(zip(owners, chunks)) == [
        (i, c) for i, text in enumerate(texts) for c in chunk_text(text, max_words, 1)
    ]
    assert all(isinstance(chunk, Chunk) for chunk in chunks)
    assert len(encodings) == len(chunks)


@given(words=st.lists(st.sampled_from(" ".join(TEXTS[:4]).split()), min_size=30, max_size=90), room=st.integers(0, 9))
@example(words=TEXTS[0].replace(".", "").split() * 9, room=3)
def test_a_long_sentence_is_split_at_words(any_tokenizer, words, room):
    text = " ".join(words)
    longest = max(len(any_tokenizer(space + word)["input_ids"]) for word in words for space in ("", " "))
    max_tokens = longest + room
    assert max_tokens < len(any_tokenizer(text)["input_ids"])
    _, chunks, encodings = encode_chunks([text], Patient(any_tokenizer), 1000, max_tokens=max_tokens)
    assert sum((piece.split() for piece in pieces(text, chunks)), []) == words
    assert all(len(encoding.ids) <= max_tokens for encoding in encodings)


def test_a_word_of_5000_characters(tokenizer, byte_tokenizer):
    text = "payment " + "xylophone" * 555 + "🦄 method"
    _, chunks, encodings = encode_chunks([text], Patient(byte_tokenizer), 50, max_tokens=16)
    assert covered(text, chunks) == printed(text) and len(chunks) > 50
    assert all(len(encoding.ids) <= 16 for encoding in encodings)
    _, chunks, encodings = encode_chunks(
        [text], Patient(tokenizer), 50, max_tokens=16
    )  # there it is one unknown token
    assert covered(text, chunks) == printed(text)
    assert tokenizer.unk_token_id in sum((encoding.ids for encoding in encodings), [])


@pytest.mark.parametrize("max_tokens", [1, 2, 4])
def test_a_character_of_more_tokens_than_the_model_takes(byte_tokenizer, max_tokens):
    with pytest.raises(ValueError, match=f"single character needs more than the {max_tokens} tokens"):
        encode_chunks(
            ["well 🦄"], Patient(byte_tokenizer), 50, max_tokens=max_tokens
        )  # four tokens and two special ones


def test_surrogates_reach_the_tokenizer_as_what_it_can_encode(byte_tokenizer):
    text = "ok \ud83d well\udc00 ok"
    _, chunks, encodings = encode_chunks([text], byte_tokenizer, 50)
    ends = [end for encoding in encodings for _, end in encoding.offsets]
    assert chunks == [(0, len(text))] and max(ends) == len(text)


def test_token_limit_is_the_smaller_of_model_and_tokenizer(tokenizer, monkeypatch):
    class Config:
        max_tokens = 512

    assert token_limit(tokenizer, Config) == 64
    Config.max_tokens = 10
    assert token_limit(tokenizer, Config) == 10
    Config.max_tokens = None
    assert token_limit(tokenizer, Config) == 64
    monkeypatch.setattr(tokenizer, "model_max_length", int(1e30))  # transformers' "unknown"
    assert token_limit(tokenizer, Config) is None
