"""The pipeline's answer as HTML: topics underlined, entities on a coloured background, each with its sentiment."""

from html import escape

# Dark text on light backgrounds, with a contrast of at least 7:1. An entity's type and sentiment are also written out,
# for people who see no colours.
STYLE = """
.tsn { line-height: 2; white-space: pre-wrap; overflow-wrap: anywhere; }
.tsn mark, .tsn mark * { color: #1f1f1f !important; }  /* also on a dark page */
.tsn mark { background: #e8eaed; border-radius: .3em; padding: .1em .25em; }
.tsn mark[data-type=PER] { background: #fde293; }
.tsn mark[data-type=LOC] { background: #b7e1c0; }
.tsn mark[data-type=ORG] { background: #c5dafa; }
.tsn mark[data-type=MISC] { background: #f5c6e5; }
.tsn mark::after { content: attr(data-type); font-size: .65em; font-weight: 700; margin-left: .4em; }
.tsn mark[data-sentiment=negative]::after { content: attr(data-type) " \\2212"; }
.tsn mark[data-sentiment=positive]::after { content: attr(data-type) " +"; }
.tsn u { text-decoration: underline 2px; text-underline-offset: .25em; text-decoration-color: #868e96; }
.tsn u[data-sentiment=negative] { text-decoration: underline wavy 2px; text-decoration-color: #c92a2a; }
.tsn u[data-sentiment=positive] { text-decoration-color: #2b8a3e; }
.tsn-chunks { padding-left: 1.6em; }
.tsn-chunks li { margin-bottom: .8em; overflow-wrap: anywhere; }
.tsn-bar { display: flex; height: .5em; border-radius: .25em; overflow: hidden; margin: .3em 0; }
.tsn-bar i:nth-child(1) { background: #c92a2a; }
.tsn-bar i:nth-child(2) { background: #adb5bd; }
.tsn-bar i:nth-child(3) { background: #2b8a3e; }
"""


def highlighted(text: str, result: dict) -> str:
    """The text as escaped HTML of class `tsn`, to be shown with `STYLE`.

    Where a topic and an entity overlap, the topic's underline is cut at the entity's borders.

    Args:
        text: As it was given to the pipeline.
        result: The pipeline's dict for it, or one of before entities had a sentiment.
    """
    topics, entities = result["topics"], result["entities"]  # each in text order, without overlaps
    cuts = sorted({0, len(text)} | {span[side] for span in (*topics, *entities) for side in ("start", "end")})
    parts, open_entity = [], None
    for start, end, topic, entity in zip(cuts, cuts[1:], _covering(topics, cuts), _covering(entities, cuts)):
        if entity is not open_entity:
            if open_entity is not None:
                parts.append("</mark>")
            if entity is not None:
                parts.append(_opening_mark(entity))
            open_entity = entity
        piece = escape(text[start:end])
        parts.append(_underlined(piece, topic) if topic else piece)
    if open_entity is not None:
        parts.append("</mark>")
    return f'<div class="tsn">{"".join(parts)}</div>'


def _opening_mark(entity):
    kind = escape(entity["entity_group"], quote=True)
    title, sentiment = f"{kind}, score {entity['score']:.2f}", ""
    if entity.get("sentiment") is not None:
        name = escape(entity["sentiment"], quote=True)
        title += f"; {name}, score {entity['sentiment_score']:.2f}"
        sentiment = f' data-sentiment="{name}"'
    return f'<mark data-type="{kind}"{sentiment} title="{title}">'


def _underlined(piece, topic):
    sentiment = escape(topic["sentiment"], quote=True)
    title = f"topic, score {topic['score']:.2f}; {sentiment}, score {topic['sentiment_score']:.2f}"
    return f'<u data-sentiment="{sentiment}" title="{title}">{piece}</u>'


def _covering(spans, cuts):
    """For each cut, the span that it lies in or None."""
    waiting = iter(spans)
    span = next(waiting, None)
    for cut in cuts:
        while span is not None and span["end"] <= cut:
            span = next(waiting, None)
        yield span if span is not None and span["start"] <= cut else None


def chunk_sentiments(text: str, chunks: list) -> str:
    """An HTML list of the chunks, each with its sentiment and a bar of the three scores.

    Args:
        text: As it was given to the pipeline.
        chunks: The `chunks` of the pipeline's dict with `return_chunks=True`.
    """
    items = []
    for chunk in chunks:
        scores = chunk["sentiment"]["scores"]
        bar = "".join(f'<i style="flex: {score:.4f}"></i>' for score in scores.values())
        shares = ", ".join(f"{escape(name)} {score:.2f}" for name, score in scores.items())
        label, piece = escape(chunk["sentiment"]["label"]), escape(text[chunk["start"] : chunk["end"]])
        items.append(f'<li><b>{label}</b> ({shares})<div class="tsn-bar" aria-hidden="true">{bar}</div>{piece}</li>')
    return f'<ol class="tsn-chunks">{"".join(items)}</ol>'
