"""What came out of scoring, as one page that needs nothing else: readable on paper, on a phone and without colours."""

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
    """The page as text.

    Args:
        summary: A [`Summary`].
        examples: `(text, result)` pairs to show with topics and entities marked; rows that `score.py` made.
        title: Plain text.
    """
    scored = sum(summary.sentiments.values())
    parts = [f"<p>{summary.rows:,} rows, {summary.errors:,} of them could not be scored.</p>"]
    parts.append(
        "<h2>Sentiment</h2>" + _table(["sentiment", "texts", "share"], _sentiment_rows(summary.sentiments, scored))
    )
    head = ["topic", "texts", "sentiment about it"]
    parts.append("<h2>Topics</h2>" + _table(head, _topic_rows(summary.top_topics())))
    unhappy = summary.unhappy_topics()
    if unhappy:
        parts.append("<h2>What people are unhappy about</h2>" + _table(head, _topic_rows(unhappy)))
    parts.append("<h2>Entities</h2>" + _table(["type", "entity", "texts"], _entity_rows(summary)))
    parts.append("<h2>Examples</h2>")
    for text, result in examples:
        label = escape(result["sentiment"] or "no sentiment")
        parts.append(f"<article><p><b>{label}</b></p>{highlighted(text, result)}</article>")
    return PAGE.format(title=escape(title), style=STYLE, body="\n".join(parts))


def _table(head, rows):
    if not rows:
        return "<p>None.</p>"

    def line(cells, tag):
        kinds = (' class="number"' if name == "texts" else "" for name in head)
        return "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds)) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _bar(counts, whole):
    """Stripes as wide as the counts' shares, told in words, too."""
    told = ", ".join(f"{label or 'none'} {n / whole:.0%}" for label, n in counts)
    stripes = "".join(
        f'<i class="{label if label in ("negative", "neutral", "positive") else "other"}" '
        f'style="width: {100 * n / whole:.2f}%"></i>'
        for label, n in counts
    )
    return f'<div class="bar" role="img" aria-label="{escape(told)}">{stripes}</div><small>{escape(told)}</small>'


def _sentiment_rows(sentiments, scored):
    return [
        [escape(label or "none"), f"{n:,}", _bar([(label, n)], scored)]
        for label, n in sorted(sentiments.items(), key=str)
    ]


def _topic_rows(topics):
    return [[escape(topic), f"{n:,}", _bar(sorted(labels.items(), key=str), n)] for topic, n, labels in topics]


def _entity_rows(summary):
    return [[escape(kind), escape(name), f"{n:,}"] for kind, name, n in summary.top_entities(SHOWN // 2)]
