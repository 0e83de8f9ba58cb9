"""Metrics of the sentiment of topics and targets, and of entities that stand on a review's common nouns.

The literature on aspect-based sentiment calls a topic an aspect term. It measures the sentiment where the annotated
spans are given (Pontiki et al. 2014, SemEval-2014 Task 4) and end to end, where the spans have to be found, too (Li et
al. 2019, Exploiting BERT for End-to-End Aspect-based Sentiment Analysis).
"""

from tsn.evaluation.metric import classification_metrics, precision_recall_f1

COMMON_NOUN_SCORE = 0.3
"""Entities below this score do not count as standing on a common noun."""


def review_sources(rows):
    """Names of the sources in which some topic has a sentiment: those that are annotated as reviews are."""
    return {row["source"] for row in rows if any(topic["sentiment"] is not None for topic in row["topics"] or [])}


def aspect_metrics(results, rows, readings, reviews):
    """The figures of the spans that carry a sentiment, and of entities on common nouns.

    **Gold topics and targets**: accuracy and macro F1 of the sentiment that is read at every annotated span, found or
    not, averaged over the classes that occur in the annotation. Topics without a sentiment are left out. For
    comparison, the same figures where each span is given the sentiment of its whole text, `..._from_text_...`.

    **Found topics**: how often the sentiment is right, among topics that the pipeline found with both borders
    right and that are annotated with a sentiment.

    **End to end**: micro-averaged precision, recall and F1 of topics with span and sentiment right, over the rows of
    review sources that have topics annotated, including rows without any. A gold topic without a sentiment (people
    disagree, or praise and blame at once) can be neither found nor missed, and a topic predicted at exactly its span
    counts neither as right nor as wrong.

    **Entities on common nouns**: entities with a score of at least 0.3 that overlap a gold topic written in lower
    case, in rows of review sources that have topics and no entities annotated, divided by the number of all gold
    topics there. A topic is in lower case if it has no capital letter; a text that has no capitals at all counts as
    well, although a name in it cannot be told from a noun by its spelling.

    Args:
        results: The pipeline's results.
        rows: The checked rows.
        readings: See `tsn.evaluation.gold_spans.read_gold_spans`.
        reviews: See `review_sources`, of all rows that are evaluated.

    Returns:
        dict: `topic_sentiment_accuracy`, `_macro_f1` and `_support` (spans), `topic_sentiment_from_text_accuracy` and
        `_macro_f1`, the same with `target_`; `topic_sentiment_found_accuracy` and `_found_support`;
        `topic_end_to_end_precision`, `_recall` and `_f1`; `ner_common_noun_rate` and `ner_common_noun_support` (gold
        topics). What nothing is annotated for is absent.
    """
    metrics = {}
    for name, prefix in (("topics", "topic_sentiment"), ("targets", "target_sentiment")):
        metrics.update(_at_gold_spans(results, rows, readings, name, prefix))
    in_reviews = [
        (result, row) for result, row in zip(results, rows) if row["source"] in reviews and row["topics"] is not None
    ]
    if in_reviews:
        metrics.update(end_to_end(in_reviews))
    bare = [(result, row) for result, row in in_reviews if row["entities"] is None]
    if topics := sum(len(row["topics"]) for _, row in bare):
        on_nouns = sum(_entities_on_common_nouns(*pair) for pair in bare)
        metrics.update(ner_common_noun_rate=on_nouns / topics, ner_common_noun_support=topics)
    return metrics


def _at_gold_spans(results, rows, readings, name, prefix):
    read, from_text, gold = [], [], []
    for result, row, reading in zip(results, rows, readings, strict=True):
        for span, label in zip(row.get(name) or [], reading[name], strict=True):
            if span["sentiment"] is not None:
                gold.append(span["sentiment"])
                read.append(label)
                from_text.append(result["sentiment"]["label"])
    if not gold:
        return {}
    metrics = {}
    for title, answers in ((prefix, read), (f"{prefix}_from_text", from_text)):
        figures = classification_metrics(zip(answers, gold))
        metrics.update({f"{title}_{figure}": figures[figure] for figure in ("accuracy", "macro_f1")})
    return {**metrics, f"{prefix}_support": len(gold)}


def end_to_end(pairs):
    """The end-to-end figures of `aspect_metrics`, of `(result, row)` pairs whose rows have topics annotated."""
    correct = found = predicted = annotated = 0
    for result, row in pairs:
        gold = {(topic["start"], topic["end"]): topic["sentiment"] for topic in row["topics"]}
        judged = {span for span, sentiment in gold.items() if sentiment is not None}
        answers = {(topic["start"], topic["end"]): topic["sentiment"] for topic in result["topics"]}
        annotated += len(judged)
        predicted += len(answers.keys() - (gold.keys() - judged))
        found += len(answers.keys() & judged)
        correct += sum(answers[span] == gold[span] for span in answers.keys() & judged)
    figures = zip(("precision", "recall", "f1"), precision_recall_f1(correct, predicted, annotated))
    metrics = {f"topic_end_to_end_{figure}": value for figure, value in figures}
    if found:
        metrics["topic_sentiment_found_accuracy"] = correct / found
    return {**metrics, "topic_sentiment_found_support": found}


def _entities_on_common_nouns(result, row):
    text = row["text"]
    nouns = [topic for topic in row["topics"] if text[topic["start"] : topic["end"]].islower()]
    return sum(
        entity["score"] >= COMMON_NOUN_SCORE
        and any(entity["start"] < noun["end"] and entity["end"] > noun["start"] for noun in nouns)
        for entity in result["entities"]
    )
