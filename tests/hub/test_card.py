"""The README is the model card: its figures are those of the recorded results; one typed by hand fails here."""

import json
import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from tests.conftest import ROOT
from tsn.evaluation.metric import MAIN_METRICS
from tsn.hub import card
from tsn.hub.card import NEW_CARD, SECTIONS, card_text, fill

README = (ROOT / "README.md").read_text("utf-8")


def test_readme_holds_what_was_recorded():
    assert card_text(ROOT) == README, "run make card"


def test_every_result_of_the_test_split_is_in_the_model_index():
    """Against the recorded file, read here in a way of its own."""
    recorded = json.loads((ROOT / "results" / "eval_results.json").read_text("utf-8"))["results"]
    expected = sorted(
        round(value, 4)
        for metrics in recorded.values()
        for name, value in metrics.items()
        if not re.search(r"rows$|support$|^score$", name)
    )
    data = ModelCard(README).data
    assert sorted(result.metric_value for result in data.eval_results) == expected and len(expected) > 200
    conll = {
        (r.metric_name, r.metric_type): r.metric_value
        for r in data.eval_results
        if (r.dataset_type, r.task_type, r.dataset_split) == ("eriktks/conll2003", "token-classification", "test")
    }
    assert conll["NER f1", "f1"] == round(recorded["conll2003"]["ner_f1"], 4)
    assert conll["NER PER recall", "recall"] == round(recorded["conll2003"]["ner_PER_recall"], 4)
    german = [r for r in data.eval_results if r.dataset_name == "UMSAB (de)" and r.metric_name == "Sentiment macro f1"]
    assert [r.metric_value for r in german] == [round(recorded["umsab/de"]["sentiment_macro_f1"], 4)]


def test_the_front_matter_is_valid_and_comes_back_as_it_was():
    card = ModelCard(README)
    assert str(card) == README
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "TSN" and results == card.data.eval_results
    for key in ("library_name", "pipeline_tag", "language", "license", "base_model", "datasets", "metrics"):
        assert card.data.get(key), key
    assert len({(r.unique_identifier, r.metric_name) for r in results}) == len(results)


@pytest.fixture
def copy(tmp_path):
    """What the card is made of, in a folder of its own."""
    for path in (
        *("README.md", "config.json", "results/eval_results.json", "results/published.json"),
        *(f"results/{name}.json" for name in ("bench", "multitask", "training", "scoring", "topic_sentiment")),
        *(f"results/int8/{name}.json" for name in ("eval_results", "quantization_report")),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    (tmp_path / "model.safetensors").symlink_to(ROOT / "model.safetensors")
    return tmp_path


def generated_numbers():
    """Places of generated figures: every thirtieth of the front matter, the first and the last of each section."""
    spots = [match.start() for match in re.finditer(r"(?<=value: 0\.)\d", README)][::30]
    for name in SECTIONS:
        start, end = README.index(f"<!-- {name} -->"), README.index(f"<!-- /{name} -->")
        digits = [match.start() for match in re.finditer(r"(?<=\d[.,])\d", README) if start < match.start() < end]
        spots += [digits[0], digits[-1]]
    return spots


@pytest.mark.parametrize("spot", generated_numbers())
def test_a_figure_edited_by_hand_is_found(copy, spot):
    edited = README[:spot] + str((int(README[spot]) + 1) % 10) + README[spot + 1 :]
    (copy / "README.md").write_text(edited, "utf-8")
    assert card_text(copy) == README != edited


def test_a_recorded_result_that_changes_changes_the_card(copy):
    record = json.loads((copy / "results" / "eval_results.json").read_text("utf-8"))
    record["results"]["conll2003"]["ner_f1"] = 0.1234
    (copy / "results" / "eval_results.json").write_text(json.dumps(record), "utf-8")
    text = card_text(copy)
    assert "value: 0.1234" in text and "| 0.123 |" in text and text != README


def test_results_of_other_weights_are_refused(copy):
    path = copy / "results/int8/eval_results.json"
    path.write_text(path.read_text("utf-8").replace('"weights_sha256": "', '"weights_sha256": "0'), "utf-8")
    with pytest.raises(ValueError, match="measured on another file"):
        card_text(copy)


def test_prose_holds_no_figures():
    """Outside tables that commands fill, code, and the front matter: no decimal, no per cent, no megabytes."""
    text = ModelCard(README).text
    for name in SECTIONS:
        text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", "", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    text = re.sub(r"\(4\.57 or any 5\.x\)|transformers (4\.57|5)|Python 3\.11", "", text)
    found = re.findall(r".{20}\b\d+\.\d+.{9}|.{20}\d+ ?(?:%|MB|ms\b|GB|points|times).{5}", text)
    assert not found, found


def test_links_and_pictures_are_there():
    from tsn.hub.files import linked_files

    names = linked_files(README)
    assert len(names) > 5 and all((ROOT / name).is_file() for name in names), names


@pytest.mark.slow
def test_the_example_shows_what_the_model_answers():
    from transformers import pipeline

    blocks = r"```python\n(from transformers import pipeline.*?)```\s+```json\n(.*?)```"
    code, shown = re.search(blocks, README, re.DOTALL).groups()
    text = re.search(r'^tsn\("(.*)"\)$', code, re.MULTILINE)[1]
    found = pipeline("topic-sentiment-ner", model=str(ROOT), trust_remote_code=True)(text)
    assert json.loads(json.dumps(found), parse_float=lambda x: round(float(x), 2)) == json.loads(shown)


def test_main_metrics_are_those_of_the_metric():
    assert MAIN_METRICS == card.MAIN_METRICS


def test_a_card_is_begun_and_filled(tmp_path):
    folder = tmp_path / "reviews"
    folder.mkdir()
    (folder / "config.json").write_text("{}", "utf-8")
    (folder / "results").mkdir()
    record = {
        "data": ["test.jsonl"],
        "results": {"all": {"rows": 3, "ner_f1": 0.5}, "mine/de": {"rows": 2, "ner_f1": 0.25}},
    }
    (folder / "results" / "eval_results.json").write_text(json.dumps(record), "utf-8")
    card.main([str(folder)])
    text = (folder / "README.md").read_text("utf-8")
    assert "# reviews" in text and "| mine/de |     2 |  0.250 |" in text
    results = ModelCard(text).data.eval_results
    assert [(r.dataset_type, r.dataset_config, r.metric_value) for r in results] == [
        ("tsn-test", None, 0.5),
        ("mine", "de", 0.25),
    ]
    (folder / "README.md").write_text(text.replace("# reviews", "# My words\n\nStay."), "utf-8")
    card.main([str(folder)])
    assert "# My words\n\nStay." in (folder / "README.md").read_text("utf-8")


def edit(name, old, new, count=-1):
    def do(folder):
        text = (folder / name).read_text("utf-8")
        (folder / name).write_text(text.replace(old, new, count), "utf-8")
        assert (folder / name).read_text("utf-8") != text

    return do


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda folder: (folder / "README.md").unlink(), "no README.md"),
        (lambda folder: (folder / "results" / "eval_results.json").unlink(), "make eval"),
        (edit("results/eval_results.json", "test.parquet", "validation.parquet"), "measured on validation.parquet"),
        (edit("results/eval_results.json", '"results"', '"rezults"'), "eval_results.json has no 'results'"),
        (edit("results/bench.json", "{", "", 1), "bench.json is damaged"),
        (lambda folder: (folder / "README.md").write_text("# Only this\n", "utf-8"), "no <!-- results -->"),
    ],
)
def test_what_is_missing_is_named(copy, change, words):
    change(copy)
    with pytest.raises((OSError, ValueError), match=words):
        card_text(copy)


def test_links_of_all_kinds_are_found_and_code_is_not_one():
    from tsn.hub.files import linked_files

    card = """![a](x.png "title") [b](<y.json>) <img alt='' src="z.png">
`f(a)[0](b)` [c](HTTPS://a.b/c) [d](#e) [f](m@x)
```python
x[0](y)
```
"""
    assert linked_files(card.replace(" [f](m@x)", "")) == ["x.png", "y.json", "z.png"]
    with pytest.raises(ValueError, match="m@x"):
        linked_files(card)


def test_fill_replaces_what_stands_between_markers_and_nothing_else():
    text = "a\n<!-- x -->\nold\nlines\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    filled = "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n<!-- y -->\n2\n<!-- /y -->\n"
    assert fill(text, {"x": "new\n", "y": "2\n"}) == filled == fill(filled, {"x": "new\n", "y": "2\n"})
    with pytest.raises(ValueError, match="no <!-- z -->"):
        fill(text, {"z": ""})
    assert NEW_CARD.count("<!-- results -->") == 1
