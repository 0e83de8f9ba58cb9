"""Checked rows, as `tsn.data.annotated.read_rows` yields them, for the tests of what is made of them."""

from tsn.data.annotated import COLUMNS


def full(text, **values):
    return {**dict.fromkeys(COLUMNS), "text": text, "source": "s", "language": "en", "row": text, **values}


def span(text, phrase, **label):
    return {"start": text.index(phrase), "end": text.index(phrase) + len(phrase), **label}


def words_of(row, name):
    return [row["text"][s["start"] : s["end"]] for s in row[name] or []]
