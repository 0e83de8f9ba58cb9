"""Metrics of the three heads of TSN, text by text: topics, named entities and sentiment.

`TSNMetric` is an `evaluate.Metric` and needs no network; `compute_metrics_from_rows` does the same arithmetic on plain
lists of dictionaries.
"""

import uuid
from collections import Counter
from functools import lru_cache
from statistics import fmean

import datasets
import evaluate
from nltk.stem.porter import PorterStemmer

from tsn.heads import MAIN_METRICS

_OFFSETS = {"start": datasets.Value("int64"), "end": datasets.Value("int64")}
_ENTITY = {**_OFFSETS, "label": datasets.Value("string")}
_FEATURES = {
    "predictions": {
        "topics": datasets.List({**_OFFSETS, "word": datasets.Value("string"), "score": datasets.Value("float64")}),
        "entities": datasets.List(_ENTITY),
        "sentiment": datasets.Value("string"),
    },
    "references": {
        "topics": datasets.List({**_OFFSETS, "word": datasets.Value("string")}),
        "entities": datasets.List(_ENTITY),
        "sentiment": datasets.Value("string"),
        "entity_types": datasets.List(datasets.Value("string")),
    },
}
_OPTIONAL = "entity_types"

_DESCRIPTION = "Precision, recall and F1 of topics and named entities, F1@k of key phrases, and sentiment per text."

_INPUTS = """
Args:
    predictions (list of `dict`): one per text, `{"topics": [{"start", "end", "word", "score"}, ...],
        "entities": [{"start", "end", "label"}, ...], "sentiment": str}`. Offsets are in characters.
    references (list of `dict`): one per text, with the same three keys; topics need no `score`. `None` means not
        annotated, and leaves the text out of that head's figures; an empty list means annotated, with no span.
        `entity_types`, optional, lists the types that were annotated in this text; predicted entities of other types
        are not counted.

Returns:
    `dict`: see `compute_metrics_from_rows`.

Example:
    >>> metric = TSNMetric()
    >>> metric.compute(predictions=predictions, references=references)["score"]
"""

_CITATION = (
    "Meng et al. 2017, Deep Keyphrase Generation, ACL. "
    "Chan et al. 2019, Neural Keyphrase Generation via Reinforcement Learning with Adaptive Rewards, ACL. "
    "Yuan et al. 2020, One Size Does Not Fit All: Generating and Evaluating Variable Number of Keyphrases, ACL. "
    "Tjong Kim Sang and De Meulder 2003, Introduction to the CoNLL-2003 Shared Task, CoNLL. "
    "Rosenthal et al. 2017, SemEval-2017 Task 4: Sentiment Analysis in Twitter, SemEval. "
    "Barbieri et al. 2020, TweetEval: Unified Benchmark and Comparative Evaluation for Tweet Classification, "
    "Findings of EMNLP."
)

_STEMMER = PorterStemmer()


@lru_cache(maxsize=2**16)
def _stem(word):
    return _STEMMER.stem(word)


def normalize_phrase(phrase):
    """Bring a phrase to the form in which key phrases are compared: lower case, single spaces, Porter stems.

    >>> normalize_phrase("Neural  Networks")
    'neural network'
    """
    return " ".join(_stem(word) for word in phrase.lower().split())


def keyphrase_f1(predicted, gold, k=None):
    """F1@k of one text, or F1@M with `k=None`, on phrases that `normalize_phrase` has made comparable.

    Precision@k divides by k even if fewer phrases were predicted (Chan et al. 2019): otherwise predicting a single
    sure phrase would pay off. Precision@M divides by the number of predictions (Yuan et al. 2020).

    Args:
        predicted (`list[str]`): distinct phrases, best first.
        gold (`set[str]`): the reference's phrases, at least one.
        k (`int`, *optional*): how many predictions count.

    Returns:
        `float` between 0 and 1.
    """
    kept = predicted[:k]
    # 2PR / (P + R), multiplied out
    return 2 * len(gold.intersection(kept)) / ((len(kept) if k is None else k) + len(gold))


def compute_metrics_from_rows(predictions, references):
    """Compute the figures of every head that some reference annotates.

    **Topics** and **entities**: precision, recall and F1 of exact spans (entities: and type), micro-averaged over the
    corpus as in CoNLL-2003 (Tjong Kim Sang and De Meulder 2003). A span given twice counts once. Where a reference
    names the `entity_types` that were annotated, predicted entities of other types are left out: nobody knows whether
    they are right.

    **Topics, F1@k**: as in the key phrase literature (Meng et al. 2017; Chan et al. 2019; Yuan et al. 2020), phrases
    are lower-cased, stemmed word by word (Porter) and made distinct. A phrase ranks by its best score; between equal
    scores, the mention that comes first in the text goes first. F1 is taken for each text, then averaged over the
    texts that have a gold phrase: those without one are left out. (Chan et al.'s script takes the F1 of the averaged
    precision and recall instead, so its figures differ a little.)

    **Sentiment**: accuracy, macro F1 and macro recall, averaged over the labels that occur in the references: data
    without neutral texts, such as SST-2, is averaged over two classes. TweetEval's figure (Barbieri et al. 2020,
    after Rosenthal et al. 2017) is the macro recall, over its three classes.

    Args:
        predictions (`list[dict]`): one per text, `{"topics": [{"start", "end", "word", "score"}, ...],
            "entities": [{"start", "end", "label"}, ...], "sentiment": str}`; offsets in characters. Other keys are
            ignored.
        references (`list[dict]`): one per text, with the same keys except `score`, and optionally `entity_types`, the
            types that were annotated (`None`: all). `None` means not annotated, and leaves the text out of that
            head's figures; an empty list means annotated, with no span.

    Returns:
        `dict`: fractions between 0 and 1 (a division by zero gives 0), and counts:

        - `topic_precision`, `topic_recall`, `topic_f1`, `topic_f1@5`, `topic_f1@10`, `topic_f1@M`, `topic_rows`;
        - `ner_precision`, `ner_recall`, `ner_f1`, `ner_rows`, and for each type in predictions or references
          `ner_<TYPE>_precision`, `_recall`, `_f1` and `_support` (its spans in the references);
        - `sentiment_accuracy`, `sentiment_macro_f1`, `sentiment_macro_recall`, `sentiment_rows`;
        - `score`: the mean of the `MAIN_METRICS` that exist.

        `<head>_rows` counts the texts annotated for a head; a head without any is absent.

    Raises:
        ValueError: if the lengths differ, a row or span lacks a key, a sentiment is not a string, or a prediction is
            `None` where the reference is annotated.

    Example:
        >>> predictions = [{"topics": [{"start": 65, "end": 79, "word": "payment method", "score": 0.97}],
        ...                 "entities": [{"start": 0, "end": 5, "label": "ORG"}], "sentiment": "positive"}]
        >>> references = [{"topics": [{"start": 65, "end": 79, "word": "payment method"}],
        ...                "entities": [{"start": 0, "end": 9, "label": "ORG"}], "sentiment": None}]
        >>> metrics = compute_metrics_from_rows(predictions, references)
        >>> metrics["topic_f1"], metrics["ner_f1"], metrics["score"], "sentiment_accuracy" in metrics
        (1.0, 0.0, 0.5, False)
    """
    _check_rows(predictions, references)
    predictions = [
        {**prediction, "entities": annotated_entities(prediction["entities"], reference.get("entity_types"), "label")}
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    metrics = {}
    for field, head_metrics in (("topics", _topics), ("entities", _entities), ("sentiment", _sentiment)):
        rows = [(p[field], r[field]) for p, r in zip(predictions, references, strict=True) if r[field] is not None]
        if rows:
            metrics.update(head_metrics(rows))
    main = [metrics[name] for name in MAIN_METRICS.values() if name in metrics]
    if main:
        metrics["score"] = fmean(main)
    return metrics


def annotated_entities(entities, types, key):
    """The entities whose type, under `key`, is one of the annotated `types`; all of them if `types` is None."""
    return entities if types is None or entities is None else [e for e in entities if e[key] in types]


def classification_metrics(pairs):
    """Accuracy, macro F1 and macro recall of `(predicted, gold)` labels, averaged over the labels that occur in gold.

    >>> classification_metrics([("positive", "positive"), ("negative", "positive")])
    {'accuracy': 0.5, 'macro_f1': 0.6666666666666666, 'macro_recall': 0.5}
    """
    pairs = list(pairs)
    predicted, gold = Counter(p for p, _ in pairs), Counter(g for _, g in pairs)
    correct = Counter(g for p, g in pairs if p == g)
    figures = [precision_recall_f1(correct[label], predicted[label], gold[label]) for label in gold]
    return {
        "accuracy": correct.total() / len(pairs),
        "macro_f1": fmean(f1 for _, _, f1 in figures),
        "macro_recall": fmean(recall for _, recall, _ in figures),
    }


def precision_recall_f1(correct, predicted, gold):
    """From counts; a division by zero gives 0."""
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * correct / (predicted + gold) if predicted or gold else 0.0
    return precision, recall, f1


class TSNMetric(evaluate.Metric):
    """The metrics of `compute_metrics_from_rows` as an `evaluate.Metric`.

    Used by one process alone, each instance gets an experiment of its own, so that no two ever meet in evaluate's
    cache. Processes that share one evaluation (`num_process` above 1) must name the same `experiment_id`.

    Example:
        >>> metric = TSNMetric(keep_in_memory=True)
        >>> row = {"topics": None, "entities": [{"start": 0, "end": 9, "label": "ORG"}], "sentiment": None}
        >>> metric.compute(predictions=[row | {"topics": [], "sentiment": "positive"}], references=[row])["ner_f1"]
        1.0
    """

    def __init__(self, config_name=None, *, num_process=1, experiment_id=None, **kwargs):
        if experiment_id is None and num_process == 1:
            experiment_id = uuid.uuid4().hex
        super().__init__(config_name, num_process=num_process, experiment_id=experiment_id, **kwargs)

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(_FEATURES),
        )

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add the prediction and the reference of one text."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add the predictions and references of several texts.

        Raises:
            ValueError: as `compute_metrics_from_rows`; nothing is added then.
        """
        _check_rows(predictions, references)
        references = [{_OPTIONAL: None, **reference} for reference in references]
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _enforce_nested_string_type(self, schema, obj):
        """Skip evaluate's own check: it refuses nulls, and looks at the first row alone. `_check_rows` replaces it."""

    def _compute(self, predictions, references):
        return compute_metrics_from_rows(predictions, references)


def _check_rows(predictions, references):
    if predictions is None or references is None:
        raise ValueError("both predictions and references are needed")
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} references")
    for index, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        _check_row(prediction, _FEATURES["predictions"], f"prediction {index}")
        _check_row(reference, _FEATURES["references"], f"reference {index}")
        for field in _FEATURES["predictions"]:
            if reference[field] is not None and prediction[field] is None:
                raise ValueError(f"prediction {index}: {field!r} is None, but reference {index} is annotated")


def _check_row(row, features, name):
    needed = [key for key in features if key != _OPTIONAL]
    if not isinstance(row, dict) or not set(needed) <= row.keys():
        raise ValueError(f"{name}: expected a dictionary with the keys {needed}, got {row!r}")
    for field in ("topics", "entities"):
        keys = features[field].feature
        for span in row[field] or []:
            if not isinstance(span, dict) or any(span.get(key) is None for key in keys):
                raise ValueError(f"{name}: {field!r} must be dictionaries with the keys {list(keys)}, got {span!r}")
    types = row.get(_OPTIONAL) if _OPTIONAL in features else None
    if types is not None and not (isinstance(types, list | tuple) and all(isinstance(label, str) for label in types)):
        raise ValueError(f"{name}: 'entity_types' must be a list of types or None, got {types!r}")
    if not isinstance(row["sentiment"], str | None):
        raise ValueError(f"{name}: 'sentiment' must be a label or None, got {row['sentiment']!r}")


def _topics(rows):
    predicted, gold = _distinct_spans(rows, ("start", "end"))
    precision, recall, f1 = precision_recall_f1(len(predicted & gold), len(predicted), len(gold))
    metrics = {"topic_precision": precision, "topic_recall": recall, "topic_f1": f1}

    texts = []
    for predicted_topics, gold_topics in rows:
        gold_phrases = {normalize_phrase(topic["word"]) for topic in gold_topics}
        if gold_phrases:
            texts.append((_ranked_phrases(predicted_topics), gold_phrases))
    for name, k in (("5", 5), ("10", 10), ("M", None)):
        metrics[f"topic_f1@{name}"] = fmean(keyphrase_f1(*text, k) for text in texts) if texts else 0.0
    return metrics | {"topic_rows": len(rows)}


def _ranked_phrases(topics):
    ranked = sorted(topics, key=lambda topic: (-topic["score"], topic["start"], topic["end"]))
    # A dictionary keeps the first of equal keys: the mention with the best score
    return list(dict.fromkeys(normalize_phrase(topic["word"]) for topic in ranked))


def _entities(rows):
    predicted, gold = _distinct_spans(rows, ("start", "end", "label"))
    correct = predicted & gold
    precision, recall, f1 = precision_recall_f1(len(correct), len(predicted), len(gold))
    metrics = {"ner_precision": precision, "ner_recall": recall, "ner_f1": f1, "ner_rows": len(rows)}

    correct_by_type, predicted_by_type, gold_by_type = (
        Counter(label for *_, label in spans) for spans in (correct, predicted, gold)
    )
    for label in sorted(predicted_by_type | gold_by_type):
        precision, recall, f1 = precision_recall_f1(
            correct_by_type[label], predicted_by_type[label], gold_by_type[label]
        )
        metrics[f"ner_{label}_precision"] = precision
        metrics[f"ner_{label}_recall"] = recall
        metrics[f"ner_{label}_f1"] = f1
        metrics[f"ner_{label}_support"] = gold_by_type[label]
    return metrics


def _sentiment(rows):
    metrics = {f"sentiment_{name}": value for name, value in classification_metrics(rows).items()}
    return metrics | {"sentiment_rows": len(rows)}


def _distinct_spans(rows, keys):
    """The predicted and the gold spans of all rows, as two sets of `(row, *keys)`."""
    return tuple(
        {(index, *(span[key] for key in keys)) for index, row in enumerate(rows) for span in row[side]}
        for side in (0, 1)
    )
