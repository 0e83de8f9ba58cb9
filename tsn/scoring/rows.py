"""Rows to score, none left out: one that cannot be scored says why."""

from typing import NamedTuple

from tsn.data.readers import BadRow, open_rows


class Row(NamedTuple):
    """A row: its columns, its text, and why it cannot be scored, in which case `text` is None."""

    columns: dict
    text: str | None
    error: str | None


def read_table(path, text_column="text", split="train"):
    """Yields a [`Row`] for each row, in order.

    Args:
        path: Whatever `tsn.data.readers.open_rows` reads.
        text_column: Holds the texts.
        split: Which split of a Hub data set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file as a whole cannot be read, or has no such column; the message names it.
    """
    _, rows = open_rows(path, text_column, split, streaming=True)
    for row in rows:
        if isinstance(row, BadRow):
            yield Row(row.columns, None, row.error)
        else:
            yield _row(row, text_column)


def require_column(rows, path, text_column):
    """Yields the rows.

    Raises:
        ValueError: after the last one, none of which has the column.
    """
    row, named = None, False
    for row in rows:
        named = named or text_column in row.columns
        yield row
    if row is not None and not named:
        raise ValueError(f"{path}: no row has a column {text_column!r}")


def _row(columns, text_column):
    if text_column not in columns:
        return Row(columns, None, f"row has no column {text_column!r}")
    text = columns[text_column]
    if isinstance(text, str):
        return Row(columns, text, None)
    return Row(columns, None, f"{text_column} is {'null' if text is None else f'{type(text).__name__}, not text'}")
