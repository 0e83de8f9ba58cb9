"""`aspects.py` against seqeval, scikit-learn and counts by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics import precision_score as seqeval_precision
from sklearn.metrics import accuracy_score, f1_score

from tests.evaluation.metric_rows import SENTIMENTS, quick
from tsn.evaluation.aspects import aspect_metrics, review_sources


def topic(start, end, sentiment, score=0.9):
    return {"start": start, "end": end, "sentiment": sentiment, "score": score, "sentiment_score": 0.8}


def result(topics=(), entities=(), sentiment="neutral"):
    return {"topics": list(topics), "entities": list(entities), "sentiment": {"label": sentiment, "score": 0.9}}


def row(text="x" * 40, topics=None, entities=None, targets=None, source="reviews"):
    return {"text": text, "topics": topics, "entities": entities, "targets": targets, "source": source}


def read_as(rows, label="neutral"):
    return [{name: [label] * len(row[name] or []) for name in ("topics", "targets")} for row in rows]


# Segments of a text: their length, and their class, or None for what lies between topics
segments = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([None, None, *SENTIMENTS])), max_size=8)


def tags_and_topics(segments, length):
    """BIO tags of the segments, padded with O, and the same spans as topics, a character for each tag."""
    tags, topics = [], []
    for size, label in segments:
        if label:
            topics.append(topic(len(tags), len(tags) + size, label))
        tags += [f"B-{label}"] + [f"I-{label}"] * (size - 1) if label else ["O"] * size
    return tags + ["O"] * (length - len(tags)), topics


@given(st.lists(st.tuples(segments, segments), min_size=1, max_size=5))
@quick
def test_end_to_end_agrees_with_seqeval(texts):
    """Span and sentiment right is what seqeval counts if the sentiment is the type of the tag."""
    results, rows, predicted_tags, gold_tags = [], [], [], []
    for predicted, gold in texts:
        length = max(sum(size for size, _ in side) for side in (predicted, gold)) + 1
        tags, topics = tags_and_topics(predicted, length)
        predicted_tags.append(tags)
        results.append(result(topics))
        tags, topics = tags_and_topics(gold, length)
        gold_tags.append(tags)
        rows.append(row(topics=topics))
    metrics = aspect_metrics(results, rows, read_as(rows), {"reviews"})
    if any(tag != "O" for tags in predicted_tags + gold_tags for tag in tags):
        assert metrics["topic_end_to_end_f1"] == pytest.approx(seqeval_f1(gold_tags, predicted_tags, zero_division=0))
        precision = seqeval_precision(gold_tags, predicted_tags, zero_division=0)
        assert metrics["topic_end_to_end_precision"] == pytest.approx(precision)
    pairs = [
        (ours["sentiment"], theirs["sentiment"])
        for answer, gold in zip(results, rows)
        for ours in answer["topics"]
        for theirs in gold["topics"]
        if (ours["start"], ours["end"]) == (theirs["start"], theirs["end"])
    ]
    assert metrics["topic_sentiment_found_support"] == len(pairs)
    if pairs:
        assert metrics["topic_sentiment_found_accuracy"] == pytest.approx(accuracy_score(*zip(*pairs)))


@pytest.mark.parametrize(("name", "prefix"), [("topics", "topic_sentiment"), ("targets", "target_sentiment")])
@given(st.lists(st.tuples(st.sampled_from(SENTIMENTS), *[st.sampled_from([None, *SENTIMENTS])] * 2), min_size=1))
@quick
def test_sentiment_at_gold_spans_agrees_with_scikit_learn(name, prefix, labels):
    """Two texts, whose spans nobody predicts; a topic without a sentiment is left out."""
    labels = [(gold, read, text) for gold, read, text in labels if name == "topics" or gold is not None]
    results, rows, readings = [], [], []
    for gold, read, text in labels:
        rows.append(row(**{name: [topic(0, 4, gold), *([topic(6, 8, None)] if name == "topics" else [])]}))
        other = "targets" if name == "topics" else "topics"
        readings.append({name: [read, "positive"][: len(rows[-1][name])], other: []})
        results.append(result(sentiment=text))
    metrics = aspect_metrics(results, rows, readings, review_sources(rows))
    gold, read, text = ([str(label) for label in column] for column in zip(*labels))
    for answers, title in ((read, prefix), (text, f"{prefix}_from_text")):
        macro = f1_score(gold, answers, labels=sorted(set(gold)), average="macro", zero_division=0)
        assert metrics[f"{title}_accuracy"] == pytest.approx(accuracy_score(gold, answers))
        assert metrics[f"{title}_macro_f1"] == pytest.approx(macro)
    assert metrics[f"{prefix}_support"] == len(gold)


def test_a_topic_without_a_sentiment_is_neither_found_nor_missed():
    # Gold: one with a sentiment (found, right), one without (found: ignored). Predicted besides: one that is wrong.
    rows = [row(topics=[topic(0, 4, "positive"), topic(5, 9, None)])]
    results = [result([topic(0, 4, "positive"), topic(5, 9, "negative"), topic(6, 9, "negative")])]
    metrics = aspect_metrics(results, rows, read_as(rows), review_sources(rows))
    assert metrics["topic_end_to_end_precision"] == 1 / 2 and metrics["topic_end_to_end_recall"] == 1
    assert metrics["topic_sentiment_found_support"] == metrics["topic_sentiment_support"] == 1


def test_rows_without_topics_count_in_reviews_and_sources_without_sentiments_do_not():
    rows = [row(topics=[topic(0, 4, "positive")]), row(topics=[]), row(topics=[topic(0, 4, None)], source="papers")]
    results = [result([topic(0, 4, "positive")])] * 3
    metrics = aspect_metrics(results, rows, read_as(rows), review_sources(rows))
    assert metrics["topic_end_to_end_f1"] == pytest.approx(2 / 3), "the second row's topic is wrong, the third unknown"
    only_papers = aspect_metrics(results[2:], rows[2:], read_as(rows[2:]), review_sources(rows))
    assert only_papers == {}


def test_entities_on_common_nouns_worked_out_by_hand():
    def entity(start, end, score):
        return {"start": start, "end": end, "score": score, "entity_group": "ORG", "word": ""}

    text = "The waiter at Luigi's brought cold soup"
    topics = [topic(4, 10, "negative"), topic(14, 21, "neutral"), topic(35, 39, "negative")]
    entities = [
        entity(4, 10, 0.3),  # on a common noun
        entity(30, 39, 0.9),  # touches one
        entity(14, 21, 0.9),  # on a name
        entity(35, 39, 0.29),  # not sure enough
        entity(22, 29, 0.9),  # on no topic
    ]
    plain = row(text, topics)
    low = row("the food", [topic(4, 8, "positive")])  # no capitals at all: counts, too
    annotated = row(text, topics, entities=[])
    papers = row(text, [topic(4, 10, None)], source="papers")
    results = [result(entities=entities), result(entities=[entity(4, 8, 1.0)]), *[result(entities=entities)] * 2]
    rows = [plain, low, annotated, papers]
    metrics = aspect_metrics(results, rows, read_as(rows), review_sources(rows))
    assert metrics["ner_common_noun_support"] == 4 and metrics["ner_common_noun_rate"] == 3 / 4
