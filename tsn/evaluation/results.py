"""The figures of an evaluation: the pipeline's results against annotated rows, all together and by source."""

from tsn.evaluation.aspects import aspect_metrics, review_sources
from tsn.evaluation.calibration import expected_calibration_error
from tsn.evaluation.metric import annotated_entities, compute_metrics_from_rows
from tsn.heads import HEADS

NO_ENTITY = "none"
JUDGED = (*HEADS, "topic_sentiment")
"""What answers have scores for: the heads', and the sentiment of the topics that were found."""


def evaluate_rows(results, rows, readings=None):
    """Measures the pipeline's results, all together and by group.

    Args:
        results: Of `tsn.evaluation.run.run_pipeline`.
        rows: The checked rows.
        readings: Of `tsn.evaluation.gold_spans.read_gold_spans`; None leaves out the figures of
            `tsn.evaluation.aspects`.

    Returns:
        dict: `"all"`, each source, and `"source/language"` where a source has several languages, to a dict of the
        number of `rows`, the metrics of `metric.compute_metrics_from_rows` and `aspects.aspect_metrics`, and the
        expected calibration error of each head and of the sentiment of found topics, `<name>_ece`.
    """
    references, reviews = [as_reference(row) for row in rows], review_sources(rows)
    predictions = [as_prediction(result) for result in results]
    figures = {}
    for name, members in group_members(rows).items():
        own = [[side[i] for i in members] for side in (results, rows, predictions, references)]
        judged = judge(own[0], own[1])
        figures[name] = {
            "rows": len(members),
            **compute_metrics_from_rows(own[2], own[3]),
            **({} if readings is None else aspect_metrics(own[0], own[1], [readings[i] for i in members], reviews)),
            **{f"{name}_ece": expected_calibration_error(*pairs) for name, pairs in judged.items() if pairs[0]},
        }
    return figures


def group_members(rows):
    """`{group: indices of its rows}`: `"all"`, then each source and its languages, if it has several, in order."""
    languages = {}
    for row in rows:
        languages.setdefault(row["source"], set()).add(row["language"])
    members = {}
    for i, row in enumerate(rows):
        members.setdefault(row["source"], []).append(i)
        if len(languages[row["source"]]) > 1:
            members.setdefault(f"{row['source']}/{row['language']}", []).append(i)
    return {"all": range(len(rows)), **{name: members[name] for name in sorted(members) if name != "all"}}


def judge(results, rows):
    """For each name in `JUDGED` the scores of the pipeline's answers, and which are right, where that is known."""
    judged = {name: ([], []) for name in JUDGED}
    for result, row in zip(results, rows):
        answers = []
        if row["topics"] is not None:
            gold = {(span["start"], span["end"]): span["sentiment"] for span in row["topics"]}
            for topic in result["topics"]:
                span = topic["start"], topic["end"]
                answers.append(("topic", topic["score"], span in gold))
                if gold.get(span) is not None:
                    right = topic["sentiment"] == gold[span]
                    answers.append(("topic_sentiment", topic["sentiment_score"], right))
        if row["entities"] is not None:
            gold = {(span["start"], span["end"], span["label"]) for span in row["entities"]}
            answers += [
                ("ner", entity["score"], (entity["start"], entity["end"], entity["entity_group"]) in gold)
                for entity in annotated_entities(result["entities"], row["entity_types"], "entity_group")
            ]
        if row["sentiment"] is not None and result["sentiment"]["label"] is not None:
            sentiment = result["sentiment"]
            answers.append(("sentiment", sentiment["score"], sentiment["label"] == row["sentiment"]))
        for name, score, right in answers:
            judged[name][0].append(score)
            judged[name][1].append(right)
    return judged


def confusion(results, rows, config):
    """Counts of what was annotated as what was predicted.

    Returns:
        dict: `sentiment` and `entities` to `{"labels", "counts"}`, counts as `(true, predicted)` lists. An entity
        counts as predicted where a span with the same borders is; otherwise its partner is `"none"`.
    """
    matrices = {}
    for name, labels in (
        ("sentiment", config.sentiment_labels),
        ("entities", [*config.entity_scheme().types, NO_ENTITY]),
    ):
        matrices[name] = {"labels": list(labels), "counts": [[0] * len(labels) for _ in labels]}

    def count(name, gold, predicted):
        index = matrices[name]["labels"].index
        matrices[name]["counts"][index(gold)][index(predicted)] += 1

    for result, row in zip(results, rows):
        if row["sentiment"] is not None and result["sentiment"]["label"] is not None:
            count("sentiment", row["sentiment"], result["sentiment"]["label"])
        if row["entities"] is not None:
            entities = annotated_entities(result["entities"], row["entity_types"], "entity_group")
            gold = {(e["start"], e["end"]): e["label"] for e in row["entities"]}
            predicted = {(e["start"], e["end"]): e["entity_group"] for e in entities}
            for span in gold.keys() | predicted.keys():
                count("entities", gold.get(span, NO_ENTITY), predicted.get(span, NO_ENTITY))
    return matrices


def as_prediction(result):
    """The pipeline's result as the metric takes it."""
    entities = [{"start": e["start"], "end": e["end"], "label": e["entity_group"]} for e in result["entities"]]
    return {"topics": result["topics"], "entities": entities, "sentiment": result["sentiment"]["label"] or ""}


def as_reference(row):
    """An annotated row as the metric takes it."""
    topics = row["topics"]
    if topics is not None:
        topics = [{**topic, "word": row["text"][topic["start"] : topic["end"]]} for topic in topics]
    kept = {name: row[name] for name in ("entities", "sentiment", "entity_types")}
    return {"topics": topics, **kept}
