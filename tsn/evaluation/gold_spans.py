"""The sentiment that a model reads at annotated spans, whether or not it would have found them itself."""

import numpy as np
from tqdm import tqdm

SPANS = ("topics", "targets")
GROUP = 512  # texts that are cut and tokenized together


def read_gold_spans(pipe, rows, batch_size=32):
    """The sentiment at the words of every annotated topic and target.

    It is read as the pipeline reads that of a topic it has found: texts are cut and tokenized by the pipeline itself,
    and the class is the highest of the mean logits over the words that the span touches.

    Args:
        pipe: A [`TSNPipeline`].
        rows: Checked rows, see `tsn.data.annotated.read_rows`.
        batch_size: Chunks of a forward pass.

    Returns:
        A dict for each row: `topics` and `targets`, lists of labels in the order of the row's spans, empty where
        nothing is annotated. A span without a word, such as a zero-width space, has None, and so have all spans of a
        row in which none has a sentiment to compare with.
    """
    labels = pipe.model.config.sentiment_labels
    readings = [{name: [None] * len(row.get(name) or []) for name in SPANS} for row in rows]
    spans = [[span for name in SPANS for span in row.get(name) or []] for row in rows]
    marked = [i for i, of_row in enumerate(spans) if any(span.get("sentiment") for span in of_row)]
    with tqdm(total=len(marked), desc="reading annotated spans", unit="text", disable=not marked) as progress:
        for start in range(0, len(marked), GROUP):
            group = marked[start : start + GROUP]
            owners, spans, logits = _word_logits(pipe, [rows[i]["text"] for i in group], batch_size)
            borders = np.searchsorted(owners, np.arange(len(group) + 1))  # (texts + 1,) where each text's words begin
            for i, first, last in zip(group, borders, borders[1:]):
                for name in SPANS:
                    readings[i][name] = [
                        _label(span, spans[first:last], logits[first:last], labels) for span in rows[i].get(name) or []
                    ]
            progress.update(len(group))
    return readings


def _word_logits(pipe, texts, batch_size):
    """Of every word of the texts: which text it stands in, `(words,)`, its start and end, `(words, 2)`, and the logits
    of its sentiment, `(words, classes)`."""
    chunks = pipe.preprocess(texts)
    logits = pipe._run_model(chunks, batch_size, {})["topic_sentiment_logits"]
    return np.repeat(chunks.owners, chunks.word_counts), chunks.spans, logits


def _label(span, words, logits, labels):
    inside = (words[:, 0] < span["end"]) & (words[:, 1] > span["start"])  # (words,)
    return labels[logits[inside].mean(0).argmax()] if inside.any() else None
