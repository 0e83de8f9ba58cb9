"""What reading annotated data and reading rows to score have in common."""

import csv


def csv_cells(path, reader):
    """Yields the cells of each row, none for a blank line, or a ValueError for a row that is not CSV.

    Args:
        path: Of the file, to name it.
        reader: A strict `csv.reader`.

    Raises:
        ValueError: a quote is never closed, so that what follows cannot be told apart into rows.
    """
    while True:
        start = reader.line_num + 1
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if reader.line_num > start or "unexpected end" in str(error):
                raise ValueError(
                    f"{path}: a quote that opens in the row of line {start} is never closed, or not before a comma "
                    f"({error}); what follows cannot be told apart into rows"
                ) from error
            yield ValueError(f"line {start} is not CSV ({error})")
