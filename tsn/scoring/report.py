"""The summary as one HTML page that loads nothing else and reads well on paper, on a phone and without colours."""

from html import escape

from highlight_tsn import STYLE, highlighted
from tsn.scoring.summary import SHOWN

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1f1f1f; background: #fff; max-width: 60em; margin: 2em auto;
  padding: 0 1em; }}
h2 {{ border-bottom: 1px solid #ccc; margin-top: 2em; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3em .5em; border-bottom: 1px solid #eee; overflow-wrap: anywhere; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; white-space: nowrap; }}
.bar {{ display: flex; height: 1em; min-width: 8em; }}
.bar i {{ display: block; print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
.negative {{ background: #c92a2a; }} .neutral {{ background: #adb5bd; }} .positive {{ background: #2b8a3e; }}
.other {{ background: #74c0fc; }}
article {{ border: 1px solid #ddd; border-radius: .4em; padding: .2em 1em; margin: 1em 0; break-inside: avoid; }}
tr {{ break-inside: avoid; }}
@media print {{ body {{ margin: 0; max-width: none; font-size: 11pt; }} }}
{style}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def report_page(summary, examples, title):
    """Returns the page as a string.

    Args:
        summary: A [`Summary`].
        examples: `(text, row)` pairs to show with topics and entities marked; rows as `score.py` writes them.
        title: Plain text.
    """
    parts = [f"<p>{summary.rows_line}</p>"]
    sentiments = [[escape(label), f"{texts:,}", _bar([(label, share)])] for label, texts, share in summary.shares]
    parts += ["<h2>Sentiment</h2>", _table(["sentiment", "texts", "share"], sentiments)]
    topic, entity = ["topic"], ["type", "entity"]
    for heading, head, phrases, optional in (
        ("Topics", topic, summary.top_topics(), False),
        ("What people are unhappy about", topic, summary.unhappy_topics(), True),
        ("Entities", entity, summary.top_entities(SHOWN // 2), False),
        ("Who is spoken of well", entity, summary.entities_spoken_of("positive"), True),
        ("Who is spoken of badly", entity, summary.entities_spoken_of("negative"), True),
    ):
        if phrases or not optional:
            rows = [_phrase_row(*phrase) for phrase in phrases]
            parts += [f"<h2>{heading}</h2>", _table([*head, "texts", "sentiment about it"], rows)]
    parts.append("<h2>Examples</h2>")
    for text, row in examples:
        label = escape(row["sentiment"] or "no sentiment")
        parts.append(f"<article><p><b>{label}</b></p>{highlighted(text, row)}</article>")
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(parts))


def _table(head, rows):
    if not rows:
        return "<p>None.</p>"

    def line(cells, tag):
        kinds = (' class="number"' if name == "texts" else "" for name in head)
        return "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds)) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _phrase_row(phrase, texts, labels):
    """The cells of a phrase: its own, the number of texts, and a bar of its sentiments."""
    return [*map(escape, phrase), f"{texts:,}", _bar([(label, n / texts) for label, n in sorted(labels.items())])]


def _bar(shares):
    """Stripes as wide as each `(label, share)`, and the same in words."""
    words = escape(", ".join(f"{label} {share:.0%}" for label, share in shares))
    stripes = "".join(
        f'<i class="{label if label in ("negative", "neutral", "positive") else "other"}" '
        f'style="width: {100 * share:.2f}%"></i>'
        for label, share in shares
    )
    return f'<div class="bar" role="img" aria-label="{words}">{stripes}</div><small>{words}</small>'
