"""Tables as Markdown that reads well as plain text, too."""


def markdown_table(lines, left=1):
    """Lines of cells, the head first, as an aligned Markdown table.

    Args:
        lines: Lists of strings, all of one length.
        left: How many columns, from the first, are set to the left; the others hold numbers and go to the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines)]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    rows = [
        [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
