"""`results.py`: groups, and what is known where not all types of entities were annotated."""

import pytest

from configuration_tsn import TSNConfig
from tests.conftest import backbone_config
from tsn.evaluation.results import confusion, evaluate_rows, group_members, judge
from tsn.tables import results_table


def row(source="a", language="en", **labels):
    empty = dict.fromkeys(("topics", "entities", "sentiment", "targets", "entity_types"))
    return {"text": "Ana of Banco Azul went to Lima", "source": source, "language": language, **empty, **labels}


def entity(start, end, kind, score=0.9):
    return {"start": start, "end": end, "entity_group": kind, "label": kind, "score": score}


def result(entities=(), topics=(), sentiment="neutral"):
    return {
        "topics": list(topics),
        "entities": list(entities),
        "sentiment": {"label": sentiment, "score": 0.75},
    }


PREDICTED = [entity(0, 3, "PER", 0.8), entity(7, 17, "ORG", 0.6), entity(26, 30, "MISC", 0.4)]
PARTLY = row(entities=[entity(0, 3, "PER")], entity_types=["PER", "LOC"])  # nobody looked for ORG and MISC


def test_types_that_were_not_annotated_count_in_no_figure():
    figures = evaluate_rows([result(PREDICTED)], [PARTLY])["all"]
    assert figures["ner_f1"] == figures["ner_precision"] == 1 and "ner_ORG_f1" not in figures
    assert figures["ner_ece"] == pytest.approx(1 - 0.8), "one answer, of score 0.8, which is right"
    assert judge([result(PREDICTED)], [PARTLY])["ner"] == ([0.8], [True])
    matrix = confusion([result(PREDICTED)], [PARTLY], TSNConfig(backbone_config("bert", 100)))["entities"]
    assert sum(map(sum, matrix["counts"])) == 1

    whole = {**PARTLY, "entity_types": None}
    figures = evaluate_rows([result(PREDICTED)], [whole])["all"]
    assert figures["ner_precision"] == pytest.approx(1 / 3) and figures["ner_ORG_f1"] == 0
    assert figures["ner_ece"] == pytest.approx((0.2 + 0.6 + 0.4) / 3)


def test_the_sentiment_of_found_topics_is_judged_where_it_is_known():
    gold = [{"start": 0, "end": 3, "sentiment": "negative"}, {"start": 7, "end": 17, "sentiment": None}]
    found = [
        {"start": start, "end": end, "score": 0.5, "word": "", "sentiment": "negative", "sentiment_score": score}
        for start, end, score in ((0, 3, 0.9), (7, 17, 0.8), (26, 30, 0.7))
    ]
    judged = judge([result(topics=found)], [row(topics=gold)])
    assert judged["topic_sentiment"] == ([0.9], [True])
    assert judged["topic"] == ([0.5] * 3, [True, True, False])


def test_groups():
    rows = [row("b"), row("a", "de"), row("b"), row("a", "en")]
    assert list(group_members(rows)) == ["all", "a", "a/de", "a/en", "b"]
    assert group_members(rows)["b"] == [0, 2] and list(group_members(rows)["all"]) == [0, 1, 2, 3]


def test_a_table_has_a_row_for_each_group_and_a_dash_where_nothing_was_measured():
    figures = evaluate_rows([result(PREDICTED), result()], [PARTLY, row("b", sentiment="neutral")])
    lines = results_table(figures).splitlines()
    header, _, _, first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert first[:3] == ["a", "1", "1.000"] and first[-1] == second[2] == "-"
    assert len({len(line) for line in lines}) == 1 and len(header) == len(first)
