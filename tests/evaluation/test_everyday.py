"""`tsn/evaluation/everyday.py`: what counts as a right answer, and the released model's answers to all of them."""

import json

import pytest

from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tests.conftest import ROOT
from tsn.evaluation import everyday
from tsn.evaluation.everyday import differences, everyday_table, read_texts
from tsn.training.model import load_tokenizer

TEXT = "The soup at Nora's was cold."
EXPECTED = {
    "text": TEXT,
    "topics": [{"word": "soup", "sentiment": ["negative"]}],
    "entities": [{"word": "Nora's", "entity_group": ["ORG", "LOC"], "sentiment": ["negative"]}],
    "sentiment": ["negative", "neutral"],
}


def answer(topics=(("soup", "negative"),), entities=(("Nora's", "LOC", "negative", 0.9),), sentiment="negative"):
    def span(word):
        return {"word": word, "start": TEXT.index(word), "end": TEXT.index(word) + len(word)}

    return {
        "topics": [{**span(word), "sentiment": sentiment} for word, sentiment in topics],
        "entities": [
            {**span(word), "entity_group": group, "sentiment": feeling, "score": score}
            for word, group, feeling, score in entities
        ],
        "sentiment": {"label": sentiment},
    }


@pytest.mark.parametrize(
    "found",
    [
        answer(),
        answer(sentiment="neutral"),
        answer(topics=[("The soup", "negative")]),
        answer(topics=[("soup", "negative"), ("cold", "positive")]),  # more topics than a person would name
        answer(entities=[("Nora's", "ORG", "negative", 0.31)]),
        answer(entities=[("Nora's", "ORG", "negative", 0.9), ("soup", "MISC", "neutral", 0.29)]),  # hardly one
    ],
)
def test_right_answers(found):
    assert differences(EXPECTED, found) == []


@pytest.mark.parametrize(
    "found, message",
    [
        (answer(topics=[]), "topic soup is missing"),
        (answer(topics=[("cold", "negative")]), "topic soup is missing"),
        (answer(topics=[("soup", "positive")]), "topic soup is positive, not negative"),
        (answer(entities=[]), "entity Nora's is missing"),
        (answer(entities=[("Nora", "LOC", "negative", 0.9)]), "entity Nora's is missing"),
        (answer(entities=[("Nora's", "PER", "negative", 0.9)]), "entity Nora's is PER, not ORG or LOC"),
        (answer(entities=[("Nora's", "LOC", "positive", 0.9)]), "entity Nora's is positive, not negative"),
        (
            answer(entities=[("Nora's", "LOC", "negative", 0.9), ("soup", "MISC", "neutral", 0.3)]),
            "soup is no entity (MISC)",
        ),
        (answer(sentiment="positive"), "the text is positive, not negative or neutral"),
    ],
)
def test_wrong_answers_are_named(found, message):
    assert message in differences(EXPECTED, found)


def test_table_shows_every_text():
    table = everyday_table([{"text": "a|b", "wrong": []}, {"text": "c", "wrong": ["one", "other"]}])
    assert table.splitlines() == [
        *("1 of 2 are right.", "", "| text | answer |", "|---|---|"),
        *(r"| a\|b | right |", "| c | one; other |"),
    ]


def test_expected_words_are_in_their_texts():
    texts = read_texts()
    assert len({row["text"] for row in texts}) == len(texts) == 17
    for row in texts:
        assert all(span["word"] in row["text"] for span in row["topics"] + row["entities"])


def test_command_writes_what_it_prints(hub_folder, tmp_path, capsys):
    everyday.main([str(hub_folder), "--output_dir", str(tmp_path)])
    assert (tmp_path / "everyday.md").read_text("utf-8") == capsys.readouterr().out
    results = json.loads((tmp_path / "everyday.json").read_text("utf-8"))
    assert [r["text"] for r in results] == [row["text"] for row in read_texts()]
    assert all(r["wrong"] == differences(t, r["answer"]) for r, t in zip(results, read_texts()))


def test_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match=f"everyday: .*{tmp_path.name}"):
        everyday.main([str(tmp_path)])


def test_released_model_answers_as_its_record_says():
    """All everyday texts on the shipped weights: the record in `results/` and the table in the docs are theirs."""
    texts = read_texts()
    answers = TSNPipeline(TSNModel.from_pretrained(ROOT).eval(), load_tokenizer(ROOT))([row["text"] for row in texts])
    record = json.loads((ROOT / "results" / "everyday" / "everyday.json").read_text("utf-8"))
    assert [differences(text, found) for text, found in zip(texts, answers)] == [row["wrong"] for row in record]
