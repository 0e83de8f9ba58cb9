"""More training rows from those there are: lower-cased copies, and sentences that praise one thing and blame another.

Every function takes checked rows, see `tsn.data.annotated.read_rows`; the spans of the rows it returns point at the
same words.
"""

import random
import unicodedata

POLARITIES = ("negative", "positive")
BUT = {"de": "aber", "en": "but", "es": "pero", "fr": "mais", "it": "ma", "nl": "maar", "pt": "mas"}
CONTRAST = "contrast"  # the `source` of joined rows
LONGEST_HALF = 25  # words of a row that is joined with another
POOL = 500  # rows of each language and polarity that the next row may be joined with
_SPANS = ("topics", "targets", "entities", "common_nouns")


def augment(rows, lower_case=0.0, contrast=0.0, common_nouns=False, seed=0):
    """Yields the rows, and behind each the copies that are made of it.

    Args:
        rows: Iterable of checked rows.
        lower_case: Share of the rows, of joined ones too, that get a lower-cased copy, half of them without
            punctuation, as speech is transcribed.
        contrast: Share of the short rows with one polarity that are joined with one of the opposite polarity.
        common_nouns: Whether rows without annotated entities get `common_nouns`, see `lower_case_topics`.
        seed: Random seed.
    """
    rng, pools = random.Random(seed), {}
    for row in rows:
        if common_nouns and row["entities"] is None and row["topics"]:
            row = {**row, "common_nouns": lower_case_topics(row)}
        out = [row]
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


def lower_case_topics(row):
    """The topics that are written in lower case in a text that also has capitals: common nouns, and no entities."""
    if row["text"].islower():
        return []
    return [topic for topic in row["topics"] if row["text"][topic["start"] : topic["end"]].islower()]


def lower_cased(row, punctuation=True):
    """The row in lower case, character by character, so that no offset moves.

    Args:
        punctuation: False also leaves out marks that do not stand within a word or number, and moves the spans along.

    Returns:
        The new row; None if a span has nothing left.
    """
    text = "".join(c.lower() if len(c.lower()) == 1 else c for c in row["text"])
    if punctuation:
        return {**row, "text": text}
    kept = [not _is_loose_mark(text, i) for i in range(len(text))]
    place, count = [], 0  # of each character in the new text
    for keep in kept:
        place.append(count)
        count += keep
    place.append(count)
    new = {**row, "text": "".join(c for c, keep in zip(text, kept) if keep)}
    for name in _SPANS:
        if row.get(name) is not None:
            new[name] = [{**span, "start": place[span["start"]], "end": place[span["end"]]} for span in row[name]]
            if any(not new["text"][span["start"] : span["end"]].strip() for span in new[name]):
                return None
    return new


def _is_loose_mark(text, i):
    if text[i] in "@#&%_" or not unicodedata.category(text[i]).startswith("P"):
        return False
    return not (0 < i < len(text) - 1 and text[i - 1].isalnum() and text[i + 1].isalnum())


def polarity_of(row):
    """The one polarity that a short row is known to have throughout, or None."""
    if not 2 <= len(row["text"].split()) <= LONGEST_HALF:
        return None
    spans = row["topics"] or row["targets"]
    said = {span["sentiment"] for span in spans} if spans else {row["sentiment"]}
    if row["sentiment"] is not None:
        said.add(row["sentiment"])
    return said.pop() if len(said) == 1 and said <= set(POLARITIES) else None


def join_opposites(first, second):
    """Two rows of opposite polarity, joined by their language's "but".

    The sentiment of the whole is unknown. A half without spans becomes a target as a whole: whatever stands in it is
    spoken of as the half is. Topics and entities stay annotated where both halves have them, of the same types.
    """
    head = first["text"].rstrip()
    ends = [span["end"] for name in _SPANS for span in first.get(name) or []]
    while head and head[-1] in ".!?…,;:" and len(head) > max(ends, default=0):
        head = head[:-1].rstrip()
    head += f", {BUT[first['language']]} "
    tail = second["text"].lstrip()
    shift = len(head) - (len(second["text"]) - len(tail))
    names = [span for span in second["entities"] or [] if span["start"] + shift == len(head)]
    if second["language"] != "de" and tail[1:2].islower() and not names and len(tail[0].lower()) == 1:
        tail = tail[0].lower() + tail[1:]
    joined = {**first, "id": None, "source": CONTRAST, "text": head + tail, "sentiment": None, "targets": None}
    moved = {name: _moved(second.get(name), shift) for name in _SPANS}
    for name in ("topics", "entities"):
        both = first[name] is not None and second[name] is not None
        joined[name] = first[name] + moved[name] if both else None
    if first["entity_types"] != second["entity_types"]:
        joined["entities"] = None
    joined["common_nouns"] = (first.get("common_nouns") or []) + (moved["common_nouns"] or [])
    if joined["topics"] is None:
        but = len(head) - len(BUT[first["language"]]) - 3  # where ", but " begins
        whole = [{"start": 0, "end": but, "sentiment": polarity_of(first)}]
        rest = [{"start": len(head), "end": len(joined["text"]), "sentiment": polarity_of(second)}]
        joined["targets"] = (first["topics"] or first["targets"] or whole) + (
            moved["topics"] or moved["targets"] or rest
        )
    joined["row"] = f"{first['row']} and {second['row']}"
    return joined


def _moved(spans, shift):
    if spans is None:
        return None
    return [{**span, "start": span["start"] + shift, "end": span["end"] + shift} for span in spans]
