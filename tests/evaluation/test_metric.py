"""`metric.py` against seqeval, scikit-learn and examples worked by hand."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from sklearn.metrics import accuracy_score, f1_score, recall_score

from tests.evaluation.metric_rows import (
    PREDICTIONS,
    REFERENCES,
    SENTIMENTS,
    TYPES,
    entity,
    prediction,
    quick,
    reference,
    rows,
    topic,
)
from tsn.evaluation.metric import MAIN_METRICS, TSNMetric, compute_metrics_from_rows, keyphrase_f1, normalize_phrase

# Spans are drawn as segments, so that gold spans never overlap.

segments = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([None, None, *TYPES])), max_size=8)
sentences = st.lists(st.tuples(segments, segments), min_size=1, max_size=5)
labels = st.lists(st.tuples(st.sampled_from(SENTIMENTS), st.sampled_from(SENTIMENTS)), min_size=1, max_size=30)


def bio_and_entities(segments, length):
    """The BIO tags of `segments`, padded with O to `length`, and the same spans as entities."""
    tags, spans = [], []
    for size, label in segments:
        if label:
            spans.append(entity(len(tags), len(tags) + size, label))
        tags += [f"B-{label}"] + [f"I-{label}"] * (size - 1) if label else ["O"] * size
    return tags + ["O"] * (length - len(tags)), spans


@given(sentences)
@quick
def test_entities_agree_with_seqeval(sentences):
    predictions, references, predicted_tags, gold_tags = [], [], [], []
    for predicted, gold in sentences:
        length = max(sum(size for size, _ in side) for side in (predicted, gold)) + 1
        tags, spans = bio_and_entities(predicted, length)
        predicted_tags.append(tags)
        predictions.append(prediction(entities=spans))
        tags, spans = bio_and_entities(gold, length)
        gold_tags.append(tags)
        references.append(reference(entities=spans))

    metrics = compute_metrics_from_rows(predictions, references)
    types = {tag[2:] for tags in predicted_tags + gold_tags for tag in tags if tag != "O"}
    assert {name.split("_")[1] for name in metrics if name.endswith("_support")} == types
    if not types:
        assert metrics["ner_precision"] == metrics["ner_recall"] == metrics["ner_f1"] == 0
        return
    report = classification_report(gold_tags, predicted_tags, output_dict=True, zero_division=0)
    for prefix, entry in [("ner", "micro avg")] + [(f"ner_{label}", label) for label in types]:
        for figure, name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert metrics[f"{prefix}_{figure}"] == pytest.approx(report[entry][name])
    assert all(metrics[f"ner_{label}_support"] == report[label]["support"] for label in types)


@given(sentences, st.sets(st.sampled_from(TYPES)))
@quick
def test_types_that_were_not_annotated_are_left_out_of_every_entity_figure(sentences, types):
    """Against seqeval on tags in which those types are O, on both sides."""
    predictions, references, predicted_tags, gold_tags = [], [], [], []
    for predicted, gold in sentences:
        gold = [(size, label if label in types else None) for size, label in gold]
        length = max(sum(size for size, _ in side) for side in (predicted, gold)) + 1
        predictions.append(prediction(entities=bio_and_entities(predicted, length)[1]))
        tags, spans = bio_and_entities(gold, length)
        gold_tags.append(tags)
        references.append(reference(entities=spans) | {"entity_types": sorted(types)})
        kept = [(size, label if label in types else None) for size, label in predicted]
        predicted_tags.append(bio_and_entities(kept, length)[0])

    metrics = compute_metrics_from_rows(predictions, references)
    assert {name.split("_")[1] for name in metrics if name.endswith("_support")} <= types
    if any(tag != "O" for tags in predicted_tags + gold_tags for tag in tags):
        report = classification_report(gold_tags, predicted_tags, output_dict=True, zero_division=0)
        assert metrics["ner_f1"] == pytest.approx(report["micro avg"]["f1-score"])
        assert metrics["ner_precision"] == pytest.approx(report["micro avg"]["precision"])
    assert TSNMetric(keep_in_memory=True).compute(predictions=predictions, references=references) == metrics


@given(labels)
@quick
def test_sentiment_agrees_with_scikit_learn(labels):
    predicted, gold = zip(*labels, strict=True)
    metrics = compute_metrics_from_rows(
        [prediction(sentiment=label) for label in predicted], [reference(sentiment=label) for label in gold]
    )
    macro = {"labels": sorted(set(gold)), "average": "macro", "zero_division": 0}
    assert metrics == pytest.approx(
        {
            "sentiment_accuracy": accuracy_score(gold, predicted),
            "sentiment_macro_f1": f1_score(gold, predicted, **macro),
            "sentiment_macro_recall": recall_score(gold, predicted, **macro),
            "sentiment_rows": len(gold),
            "score": f1_score(gold, predicted, **macro),
        }
    )


def test_sentiment_averages_over_the_labels_of_the_references():
    # No neutral reference, as in SST-2. positive: P 1/1, R 1/2, F1 2/3; negative: P 1/1, R 1/1, F1 1.
    # A third class "neutral" would add an F1 of 0 and bring the mean down to 5/9.
    metrics = compute_metrics_from_rows(
        [prediction(sentiment=label) for label in ("positive", "neutral", "negative")],
        [reference(sentiment=label) for label in ("positive", "positive", "negative")],
    )
    assert metrics["sentiment_macro_f1"] == pytest.approx(5 / 6)
    assert metrics["sentiment_macro_recall"] == pytest.approx(3 / 4)


# Key phrases, worked by hand

# Distinct predictions, best first: "neural network" (0.95), "keyphras" (0.8), "train" (0.5).
# Gold: "neural network", "key phrase", "train". Two of three are right.
STEMMED = (
    [
        topic(0, "neural network", 0.9),
        topic(20, "keyphrase", 0.8),
        topic(40, "Neural  Networks", 0.95),
        topic(60, "training", 0.5),
    ],
    [topic(0, "neural networks"), topic(20, "key phrases"), topic(60, "Training"), topic(90, "trained")],
)
# Six distinct predictions, the best last in the text, of which the fifth and the sixth are the two gold phrases
SIX = (
    [topic(60 - 10 * i, word, 0.9 - i / 10) for i, word in enumerate(["a", "b", "c", "d", "alpha", "zeta"])],
    [topic(20, "alpha"), topic(10, "zeta")],
)


@pytest.mark.parametrize(
    ("document", "at_5", "at_10", "at_m"),
    [
        # P@5 2/5 (three predicted, but k divides), R 2/3; P@10 2/10; P@M 2/3
        (STEMMED, 1 / 2, 4 / 13, 2 / 3),
        # P@5 1/5, R@5 1/2; P@10 2/10, R 2/2; P@M 2/6, R 2/2
        (SIX, 2 / 7, 1 / 3, 1 / 2),
        # Nothing predicted: P 0 by convention, R 0
        (([], [topic(0, "alpha")]), 0, 0, 0),
    ],
    ids=["stemmed", "six", "none"],
)
def test_keyphrase_f1_by_hand(document, at_5, at_10, at_m):
    metrics = compute_metrics_from_rows([prediction(document[0])], [reference(document[1])])
    assert metrics["topic_f1@5"] == pytest.approx(at_5)
    assert metrics["topic_f1@10"] == pytest.approx(at_10)
    assert metrics["topic_f1@M"] == pytest.approx(at_m)


def test_keyphrase_f1_is_averaged_over_texts_with_a_gold_phrase():
    without_gold = ([topic(0, "alpha", 0.9)], [])
    documents = [STEMMED, without_gold, SIX]
    metrics = compute_metrics_from_rows([prediction(p) for p, _ in documents], [reference(g) for _, g in documents])
    assert metrics["topic_f1@5"] == pytest.approx((1 / 2 + 2 / 7) / 2)
    assert metrics["topic_f1@M"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Exact spans count every text. STEMMED: (60, 68) alone has both offsets right, (0, 14) ends one letter early.
    # SIX: both. So 3 of 4 + 1 + 6 predicted spans, and of 4 + 0 + 2 gold ones.
    assert metrics["topic_precision"] == pytest.approx(3 / 11)
    assert metrics["topic_recall"] == pytest.approx(3 / 6)
    assert metrics["topic_f1"] == pytest.approx(6 / 17)
    assert metrics["topic_rows"] == 3


def test_equal_scores_rank_in_text_order():
    # Only five of six count, and the right one comes first in the text though last in the list
    topics = [topic(start, word, 0.5) for start, word in [(60, "b"), (50, "c"), (40, "d"), (30, "e"), (20, "f")]]
    metrics = compute_metrics_from_rows(
        [prediction([*topics, topic(10, "alpha", 0.5)])], [reference([topic(10, "alpha")])]
    )
    assert metrics["topic_f1@5"] == pytest.approx(2 / 6)


def test_keyphrase_helpers():
    assert normalize_phrase(" Studies\tof  Ponies ") == "studi of poni"
    assert keyphrase_f1(["a", "b"], {"a"}) == pytest.approx(2 / 3)
    assert keyphrase_f1(["b", "a"], {"a"}, k=1) == 0


# Annotation, duplicates and wrong input


def test_unannotated_heads_are_absent():
    assert compute_metrics_from_rows([prediction([topic(0, "alpha", 0.9)])], [reference()]) == {}
    assert compute_metrics_from_rows([], []) == {}


def test_unannotated_rows_are_left_out():
    predictions, references = PREDICTIONS[1:2], REFERENCES[1:2]
    alone = compute_metrics_from_rows(predictions, references)
    unannotated = prediction([topic(9, "noise", 1.0)], [entity(2, 3, "PER")], "positive")
    assert compute_metrics_from_rows([unannotated, *predictions], [reference(), *references]) == alone


def test_an_empty_list_is_an_annotation():
    metrics = compute_metrics_from_rows(
        [prediction([topic(0, "alpha", 0.9)], [entity(0, 5, "PER")])] * 2,
        [reference([], []), reference([topic(0, "alpha")], [entity(0, 5, "PER")])],
    )
    assert metrics["topic_precision"] == metrics["ner_precision"] == 0.5
    assert metrics["topic_rows"] == metrics["ner_rows"] == 2


def test_no_span_on_either_side_gives_zero():
    metrics = compute_metrics_from_rows([prediction()], [reference([], [])])
    assert metrics == dict.fromkeys(metrics, 0.0) | {"topic_rows": 1, "ner_rows": 1}


def test_duplicate_spans_count_once():
    metrics = compute_metrics_from_rows(
        [prediction([topic(0, "alpha", 0.9), topic(0, "alpha", 0.2)], [entity(0, 5, "PER")] * 3)],
        [reference([topic(0, "alpha")], [entity(0, 5, "PER")])],
    )
    assert metrics["topic_f1"] == metrics["topic_f1@M"] == metrics["ner_f1"] == metrics["score"] == 1


def test_the_type_of_an_entity_counts():
    metrics = compute_metrics_from_rows(
        [prediction(entities=[entity(0, 5, "PER")])], [reference(entities=[entity(0, 5, "LOC")])]
    )
    assert metrics["ner_f1"] == metrics["ner_PER_f1"] == metrics["ner_LOC_f1"] == 0
    assert (metrics["ner_PER_support"], metrics["ner_LOC_support"]) == (0, 1)


def test_score_is_the_mean_of_the_heads():
    metrics = compute_metrics_from_rows(PREDICTIONS, REFERENCES)
    # topics 1 of 1 predicted and 2 gold; entities 1 of 2 predicted and 2 gold; sentiment: negative right, positive not
    expected = {"topic_f1": 2 / 3, "ner_f1": 1 / 2, "sentiment_macro_f1": 1 / 2}
    assert {name: metrics[name] for name in MAIN_METRICS.values()} == pytest.approx(expected)
    assert metrics["score"] == pytest.approx(sum(expected.values()) / 3)


WRONG = {
    "lengths": ([prediction()], [], "1 predictions but 0 references"),
    "no references": ([prediction()], None, "both"),
    "row": ([None], [reference()], "prediction 0: expected a dictionary"),
    "missing head": ([prediction()] * 2, [reference(), {"topics": []}], "reference 1: expected a dictionary"),
    "missing score": ([prediction([topic(0, "alpha")])], [reference()], "prediction 0: 'topics'"),
    "missing word": ([prediction()], [reference([{"start": 0, "end": 1}])], "reference 0: 'topics'"),
    "null offset": ([prediction(entities=[entity(None, 1, "PER")])], [reference()], "prediction 0: 'entities'"),
    "no span": ([prediction(["alpha"])], [reference()], "prediction 0: 'topics'"),
    "pipeline output": ([prediction(sentiment={"label": "positive"})], [reference()], "prediction 0: 'sentiment'"),
    "types": ([prediction()], [reference() | {"entity_types": "PER"}], "reference 0: 'entity_types'"),
    "null prediction": ([prediction(sentiment=None)], [reference(sentiment="neutral")], "'sentiment' is None"),
}


@pytest.mark.parametrize(("predictions", "references", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_a_value_error(predictions, references, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compute_metrics_from_rows(predictions, references)
    metric = TSNMetric(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=message):
        metric.compute(predictions=predictions, references=references)
    # Nothing of the refused batch stays behind
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES)["topic_rows"] == 2


# Properties


@given(rows, st.randoms(use_true_random=False))
@quick
def test_figures_are_bounded_and_do_not_depend_on_order(rows, rng):
    predictions, references = [p for p, _ in rows], [r for _, r in rows]
    before = copy.deepcopy((predictions, references))
    metrics = compute_metrics_from_rows(predictions, references)
    assert (predictions, references) == before
    for name, value in metrics.items():
        assert 0 <= value <= (len(rows) * 6 if name.endswith(("_rows", "_support")) else 1)

    shuffled = [(p | {"topics": rng.sample(p["topics"], len(p["topics"]))}, r) for p, r in rng.sample(rows, len(rows))]
    assert compute_metrics_from_rows([p for p, _ in shuffled], [r for _, r in shuffled]) == metrics


@given(rows)
@quick
def test_a_perfect_prediction_scores_one(rows):
    references = [r for _, r in rows]
    predictions = [
        prediction(
            [span | {"score": 1.0} for span in r["topics"] or []], r["entities"] or [], r["sentiment"] or "neutral"
        )
        for r in references
    ]
    metrics = compute_metrics_from_rows(predictions, references)
    if any(r["topics"] for r in references):
        assert metrics["topic_precision"] == metrics["topic_recall"] == metrics["topic_f1"] == 1
        assert metrics["topic_f1@M"] == 1
    if any(r["entities"] for r in references):
        assert metrics["ner_f1"] == 1
    if any(r["sentiment"] for r in references):
        assert metrics["sentiment_accuracy"] == metrics["sentiment_macro_f1"] == metrics["sentiment_macro_recall"] == 1
