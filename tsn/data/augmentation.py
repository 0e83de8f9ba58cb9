"""More training rows from the given ones: lower-cased copies, names in reviews, and sentences of two opinions.

Every function takes checked rows, see `tsn.data.annotated.read_rows`; the spans of the rows it returns point at the
same words.
"""

import random
import unicodedata
from collections.abc import Iterable, Iterator

from tsn.data.names import Names

POLARITIES = ("negative", "positive")
BUT = {"de": "aber", "en": "but", "es": "pero", "fr": "mais", "it": "ma", "nl": "maar", "pt": "mas"}
CONTRAST = "contrast"  # the `source` of joined rows
LONGEST_HALF = 25  # words of a row that is joined with another
POOL = 500  # rows of each language and polarity that the next row may be joined with
_SPANS = ("topics", "targets", "entities", "common_nouns")
_ENDING = ".!?…,;:"  # what a sentence loses where ", but" follows


def augment(
    rows: Iterable[dict],
    lower_case: float = 0.0,
    contrast: float = 0.0,
    common_nouns: bool = False,
    names: float = 0.0,
    seed: int = 0,
) -> Iterator[dict]:
    """Yields the rows, and after each the copies that are made of it.

    Args:
        rows: Iterable of checked rows.
        lower_case: Share of the rows, of joined ones too, that get a lower-cased copy, half of them without
            punctuation, as speech is transcribed.
        contrast: Share of the short rows with one polarity that are joined with one of the opposite polarity.
        common_nouns: Whether rows without annotated entities get `common_nouns`, see `lower_case_topics`.
        names: Share of the short reviews without names that get a copy with some, see `tsn.data.names`.
        seed: Random seed.
    """
    rng = random.Random(seed)
    pools: dict[tuple[str, str], list[dict]] = {}
    known = Names(rng)
    for row in rows:
        named = None
        if names:
            known.see(row)
            if rng.random() < names:
                named = known.put_into(row)
        if common_nouns and row["entities"] is None and row["topics"]:
            row = {**row, "common_nouns": lower_case_topics(row)}
        out = [row] if named is None else [row, named]
        if contrast and row["language"] in BUT and (polarity := polarity_of(row)):
            others = pools.get((row["language"], POLARITIES[polarity == POLARITIES[0]]))
            if others and rng.random() < contrast:
                pair = [row, rng.choice(others)]
                rng.shuffle(pair)
                out.append(join_opposites(*pair))
            pool = pools.setdefault((row["language"], polarity), [])
            if len(pool) < POOL:
                pool.append(row)
            else:
                pool[rng.randrange(POOL)] = row
        for made in out:
            yield made
            if lower_case and rng.random() < lower_case:
                copy = lower_cased(made, punctuation=rng.random() < 0.5)
                if copy is not None:
                    yield copy


def lower_case_topics(row: dict) -> list[dict]:
    """The topics that are written in lower case in a text that also has capitals: common nouns, and no entities."""
    if row["text"].islower():
        return []
    return [topic for topic in row["topics"] if row["text"][topic["start"] : topic["end"]].islower()]


def lower_cased(row: dict, punctuation: bool = True) -> dict | None:
    """The row in lower case, character by character, so that no offset moves.

    Args:
        punctuation: False also removes marks that are not within a word or number, and moves the spans along. Marks
            that alone part two words, as in "good...but", become a space.

    Returns:
        The new row; None if a span has nothing left.
    """
    text = "".join(c.lower() if len(c.lower()) == 1 else c for c in row["text"])
    if punctuation:
        return {**row, "text": text}
    kept: list[str] = []
    place: dict[int, int] = {}  # of a character in the new text
    parted = False
    for i, c in enumerate(text):
        if _is_loose_mark(text, i):
            parted = True
            continue
        if parted and kept and not kept[-1].isspace() and not c.isspace():
            kept.append(" ")
        parted = False
        if not c.isspace():
            place[i] = len(kept)
        kept.append(c)
    new = {**row, "text": "".join(kept)}
    for name in _SPANS:
        if row.get(name) is not None:
            new[name] = []
            for span in row[name]:
                places = [place[i] for i in range(span["start"], span["end"]) if i in place]
                if not places:
                    return None
                new[name].append({**span, "start": places[0], "end": places[-1] + 1})
    return new


def _is_loose_mark(text, i):
    if text[i] in "@#&%_" or not unicodedata.category(text[i]).startswith("P"):
        return False
    return not (0 < i < len(text) - 1 and text[i - 1].isalnum() and text[i + 1].isalnum())


def polarity_of(row: dict) -> str | None:
    """The one polarity that a short row is known to have throughout, or None."""
    if not 2 <= len(row["text"].split()) <= LONGEST_HALF:
        return None
    sentiments = {span["sentiment"] for span in (row["topics"] or []) + (row["targets"] or [])}
    if row["sentiment"] is not None or not sentiments:
        sentiments.add(row["sentiment"])
    return sentiments.pop() if len(sentiments) == 1 and sentiments <= set(POLARITIES) else None


def join_opposites(first: dict, second: dict) -> dict:
    """Two rows of opposite polarity, joined by their language's "but".

    The sentiment of the whole is unknown. A half without spans becomes a target as a whole: whatever stands in it is
    spoken of as the half is. Topics and entities stay annotated where both halves have them, of the same types.
    """
    head = _without_ending(first)
    but = len(head)
    head += f", {BUT[first['language']]} "
    cut = _leading_space(second)
    tail, shift = second["text"][cut:], len(head) - cut
    is_name = any(entity["start"] == cut for entity in second["entities"] or [])
    if second["language"] != "de" and tail[1:2].islower() and not is_name and len(tail[0].lower()) == 1:
        tail = tail[0].lower() + tail[1:]
    moved = {name: _moved(second.get(name), shift) for name in _SPANS}
    joined = {**first, "id": None, "source": CONTRAST, "text": head + tail, "sentiment": None}
    for name in ("topics", "entities"):
        both = first[name] is not None and second[name] is not None
        joined[name] = first[name] + moved[name] if both else None
    if first["entity_types"] != second["entity_types"]:
        joined["entities"] = joined["entity_types"] = None
    joined["common_nouns"] = (first.get("common_nouns") or []) + (moved["common_nouns"] or [])
    targets = []
    whole = ({"start": 0, "end": but}, {"start": len(head), "end": len(head + tail)})
    for row, half, place in ((first, first, whole[0]), (second, moved, whole[1])):
        topics, own = half["topics"] or [], half["targets"] or []
        if not topics and not own:
            own = [{**place, "sentiment": polarity_of(row)}]
        targets += sorted(own + (topics if joined["topics"] is None else []), key=lambda span: span["start"])
    joined["targets"] = targets
    joined["row"] = f"{first['row']} and {second['row']}"
    return joined


def _without_ending(row):
    """The text without closing marks and spaces, but never a part of a span less."""
    text, last = row["text"], max([1, *(span["end"] for name in _SPANS for span in row.get(name) or [])])
    end = len(text)
    while end > last and (text[end - 1].isspace() or text[end - 1] in _ENDING):
        end -= 1
    return text[:end]


def _leading_space(row):
    """How many characters of white space the text begins with, before any span."""
    text, first = row["text"], min([len(row["text"]), *(s["start"] for name in _SPANS for s in row.get(name) or [])])
    return next((i for i in range(first) if not text[i].isspace()), first)


def _moved(spans, shift):
    if spans is None:
        return None
    return [{**span, "start": span["start"] + shift, "end": span["end"] + shift} for span in spans]
