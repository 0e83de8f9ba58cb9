"""Tables as Markdown that reads well as plain text, too; and that of an evaluation."""

COLUMNS = {
    "topic_f1": "Topic F1",
    "topic_f1@5": "F1@5",
    "topic_f1@10": "F1@10",
    "topic_f1@M": "F1@M",
    "ner_f1": "NER F1",
    "sentiment_accuracy": "Sent. acc.",
    "sentiment_macro_f1": "Sent. macro F1",
    "sentiment_macro_recall": "Sent. macro R",
    "topic_ece": "Topic ECE",
    "ner_ece": "NER ECE",
    "sentiment_ece": "Sent. ECE",
}


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


def results_table(results):
    """The main figures of `tsn.evaluation.run.evaluate_rows`, a row a group."""
    shown = {key: title for key, title in COLUMNS.items() if any(key in group for group in results.values())}
    lines = [["", "Texts", *shown.values()]]
    for name, group in results.items():
        lines.append([name, str(group["rows"]), *(f"{group[k]:.3f}" if k in group else "" for k in shown)])
    return markdown_table(lines)
