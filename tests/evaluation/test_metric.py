"""`metric.py` against seqeval, scikit-learn, examples worked by hand, and `evaluate`'s own machinery."""

import copy
import doctest
import json
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from sklearn.metrics import accuracy_score, f1_score, recall_score

from tests.conftest import ROOT
from tsn.evaluation import metric
from tsn.evaluation.metric import MAIN_METRICS, TSNMetric, compute_metrics_from_rows, keyphrase_f1, normalize_phrase

quick = settings(max_examples=50, deadline=None)
TYPES = ["PER", "LOC", "ORG", "MISC"]
SENTIMENTS = ["negative", "neutral", "positive"]


def topic(start, word, score=None):
    span = {"start": start, "end": start + len(word), "word": word}
    return span if score is None else span | {"score": score}


def entity(start, end, label):
    return {"start": start, "end": end, "label": label}


def prediction(topics=(), entities=(), sentiment="neutral"):
    return {"topics": list(topics), "entities": list(entities), "sentiment": sentiment}


def reference(topics=None, entities=None, sentiment=None):
    return {"topics": topics, "entities": entities, "sentiment": sentiment}


PREDICTIONS = [
    prediction([topic(0, "payment method", 0.9), topic(40, "customers", 0.4)], [entity(0, 9, "ORG")], "positive"),
    prediction([topic(3, "battery", 0.7)], [entity(5, 9, "LOC"), entity(20, 24, "PER")], "negative"),
    prediction([], [entity(1, 4, "MISC")], "neutral"),
]
REFERENCES = [
    reference(None, [entity(0, 9, "ORG"), entity(21, 29, "LOC")], None),
    reference([topic(3, "battery"), topic(30, "price")], None, "negative"),
    reference([], [], "positive"),
]


# Hypothesis: rows of one text each. Spans are drawn as segments, so that gold spans never overlap.

segments = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([None, None, *TYPES])), max_size=8)
sentences = st.lists(st.tuples(segments, segments), min_size=1, max_size=5)
labels = st.lists(st.tuples(st.sampled_from(SENTIMENTS), st.sampled_from(SENTIMENTS)), min_size=1, max_size=30)

# Of different lengths: in a text, two spans with the same offsets are the same word
words = st.sampled_from(["graph", "network", "networks", "key phrase", "Key  Phrases"])
offsets = st.integers(0, 5)
predicted_topics = st.lists(st.builds(topic, offsets, words, st.floats(0, 1)), max_size=12)
gold_topics = st.lists(st.builds(topic, offsets, words), max_size=6)
entities = st.lists(st.builds(entity, offsets, offsets, st.sampled_from(TYPES)), max_size=6)
sentiments = st.sampled_from(SENTIMENTS)
rows = st.lists(
    st.tuples(
        st.builds(prediction, predicted_topics, entities, sentiments),
        st.builds(reference, st.none() | gold_topics, st.none() | entities, st.none() | sentiments),
    ),
    max_size=6,
)


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


# evaluate


@given(rows=rows)
@quick
def test_arrow_changes_nothing(tmp_path_factory, rows):
    predictions, references = [p for p, _ in rows], [r for _, r in rows]
    metric = TSNMetric(keep_in_memory=True, cache_dir=str(tmp_path_factory.getbasetemp()))
    expected = compute_metrics_from_rows(predictions, references)
    assert metric.compute(predictions=predictions, references=references) == expected


@pytest.mark.parametrize("keep_in_memory", [False, True])
def test_ways_to_add_rows(keep_in_memory, tmp_path):
    metric = TSNMetric(keep_in_memory=keep_in_memory, cache_dir=str(tmp_path))
    expected = compute_metrics_from_rows(PREDICTIONS, REFERENCES)
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == expected
    for cut in (1, 2):
        metric.add_batch(predictions=PREDICTIONS[:cut], references=REFERENCES[:cut])
        metric.add_batch(predictions=PREDICTIONS[cut:], references=REFERENCES[cut:])
        assert metric.compute() == expected
    for row in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction=row[0], reference=row[1])
    assert metric.compute() == expected


def test_further_keys_are_ignored(tmp_path):
    def extend(row):
        topics = row["topics"] and [topic | {"count": 2} for topic in row["topics"]]
        return row | {"topics": topics, "id": "a text"}

    metric = TSNMetric(cache_dir=str(tmp_path))
    predictions, references = [extend(row) for row in PREDICTIONS], [extend(row) for row in REFERENCES]
    expected = compute_metrics_from_rows(PREDICTIONS, REFERENCES)
    assert compute_metrics_from_rows(predictions, references) == expected
    assert metric.compute(predictions=predictions, references=references) == expected


def test_two_metrics_at_once_do_not_collide(tmp_path):
    first, second = TSNMetric(cache_dir=str(tmp_path)), TSNMetric(cache_dir=str(tmp_path))
    assert first.experiment_id != second.experiment_id
    order = list(zip(PREDICTIONS, REFERENCES, strict=True))
    random.Random(0).shuffle(order)
    for row in order:
        first.add(prediction=row[0], reference=row[1])
        second.add(prediction=row[0], reference=reference(sentiment="neutral"))
    assert first.cache_file_name != second.cache_file_name
    assert second.compute()["sentiment_rows"] == len(order)
    assert first.compute() == compute_metrics_from_rows(PREDICTIONS, REFERENCES)


def test_a_shared_experiment_keeps_its_id(tmp_path):
    names = [TSNMetric(num_process=2, process_id=i, cache_dir=str(tmp_path)).experiment_id for i in range(2)]
    assert names[0] == names[1]
    assert TSNMetric(experiment_id="mine", cache_dir=str(tmp_path)).experiment_id == "mine"


LOAD = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the metric used the network")

socket.socket.connect = socket.getaddrinfo = refuse

from tsn.evaluation.metric import TSNMetric

metric = TSNMetric(cache_dir=sys.argv[1])
print(json.dumps(metric.compute(**json.load(sys.stdin))))
"""


def test_needs_no_network(tmp_path):
    # Another process, because evaluate reads its environment on import. It shares the cache with a metric in use.
    metric = TSNMetric(cache_dir=str(tmp_path / "cache"))
    metric.add_batch(predictions=PREDICTIONS[:1], references=REFERENCES[:1])
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "cache")],
        input=json.dumps({"predictions": PREDICTIONS, "references": REFERENCES}),
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    metric.add_batch(predictions=PREDICTIONS[1:], references=REFERENCES[1:])
    assert json.loads(run.stdout) == metric.compute() == compute_metrics_from_rows(PREDICTIONS, REFERENCES)


def test_examples_in_docstrings():
    results = doctest.testmod(metric)
    assert results.attempted > 0
    assert results.failed == 0
