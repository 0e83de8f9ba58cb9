"""From answers and seconds to the figures of the curve: quality of each set, words a second, ratios within a turn."""

from statistics import fmean

from bench.figures import spread
from tsn.evaluation.aspects import end_to_end
from tsn.evaluation.metric import compute_metrics_from_rows
from tsn.evaluation.results import as_prediction, as_reference
from tsn.hub.curve import METRICS, REFERENCE


def quality(answers, rows, sets, metrics=METRICS):
    """A system's quality, as `eval.py` measures it.

    Args:
        answers: Of each row, in the form of the pipeline's.
        rows, sets: Of `curve_texts.sample_sets`.
        metrics: Names of what the system answers.

    Returns:
        dict: of each metric that has a set, its `mean` over the sets and the `sets`, names to values.
    """
    figures = {}
    for metric in metrics:
        values = {}
        for source, members in sets[metric].items():
            pairs = [(answers[i], rows[i]) for i in members]
            if metric == "topic_end_to_end_f1":
                values[source] = end_to_end(pairs)[metric]
            else:
                predictions, references = zip(*((as_prediction(a), as_reference(row)) for a, row in pairs))
                values[source] = compute_metrics_from_rows(predictions, references)[metric]
        if values:
            figures[metric] = {"mean": fmean(values.values()), "sets": values}
    return figures


def combine(answers_of_topics, answers_of_sentiment):
    """The answers of two systems as one's: topics from the first, each with the sentiment that the second gives the
    whole text."""
    combined = []
    for topics, sentiment in zip(answers_of_topics, answers_of_sentiment):
        label = sentiment["sentiment"]["label"]
        topics = [{**topic, "sentiment": label} for topic in topics["topics"]]
        combined.append({"topics": topics, "entities": [], "sentiment": sentiment["sentiment"]})
    return combined


def add_figures(record):
    """Adds to each system's `speed`, per number of cores `{"words", "seconds"}`, lists of the turns:

    `per_second`, words a second as `spread` gives them; `times`, how many times as fast as `REFERENCE` on the same
    slice; and for a system with a `precision` the share `of_limit`: its operations a second beside those that the
    processor's units reach in one large matrix multiplication.
    """
    [reference] = [system for system in record["systems"] if system["name"] == f"TSN, {REFERENCE}"]
    for system in record["systems"]:
        for count, speed in system["speed"].items():
            own, other = _rates(speed), _rates(reference["speed"][count])
            speed["per_second"] = spread(own)
            speed["times"] = spread([one / beside for one, beside in zip(own, other)])
            if system["precision"]:
                reached = speed["per_second"]["median"] * record["operations_per_word"][system["model"]]
                speed["of_limit"] = reached / record["limits"][count][system["precision"]]


def _rates(speed):
    """Words a second of each turn; a system that is only timed reads a part of the slice."""
    return [words / seconds for words, seconds in zip(speed["words"], speed["seconds"])]
