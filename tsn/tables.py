"""Markdown tables that read well as plain text, too, and the table of an evaluation."""

COLUMNS = {
    "topic_f1": "Topic F1",
    "topic_f1@5": "F1@5",
    "topic_f1@10": "F1@10",
    "topic_f1@M": "F1@M",
    "topic_ece": "ECE",
    "topic_sentiment_accuracy": "Gold topic: acc.",
    "topic_sentiment_macro_f1": "macro F1",
    "topic_sentiment_found_accuracy": "Found topic: acc.",
    "topic_sentiment_ece": "ECE",
    "topic_end_to_end_f1": "End-to-end F1",
    "target_sentiment_accuracy": "Target: acc.",
    "target_sentiment_macro_f1": "macro F1",
    "ner_f1": "NER F1",
    "ner_common_noun_rate": "on nouns",
    "ner_ece": "ECE",
    "sentiment_accuracy": "Text: acc.",
    "sentiment_macro_f1": "macro F1",
    "sentiment_macro_recall": "macro R",
    "sentiment_ece": "ECE",
}
"""The figures that a table shows, by head; a title without a head belongs to the one before it."""
ABSENT = "-"


def markdown_table(lines, left=1):
    """Lines of cells, the header first, as an aligned Markdown table.

    Args:
        lines: Lists of strings, all of the same length.
        left: How many columns, from the first, are aligned to the left; the others hold numbers and go to the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines)]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    rows = [
        [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def results_table(results):
    """The main figures of `tsn.evaluation.results.evaluate_rows`, a row for each group."""
    shown = [key for key in COLUMNS if any(key in group for group in results.values())]
    lines = [["", "Texts", *(COLUMNS[key] for key in shown)]]
    for name, group in results.items():
        cells = (f"{group[key]:.3f}" if key in group else ABSENT for key in shown)
        lines.append([name, str(group["rows"]), *cells])
    return markdown_table(lines)
