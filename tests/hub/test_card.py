"""README.md is the model card: its figures and those of docs/ are the recorded ones; one typed by hand fails here."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from tests.conftest import ROOT
from tsn.evaluation.metric import MAIN_METRICS
from tsn.hub import card
from tsn.hub.card import DATASETS, NEW_CARD, SECTIONS, card_pages, fill
from tsn.hub.files import linked_files, read_pages

PAGES = read_pages(ROOT)
README = PAGES["README.md"]
TEXT = "\n".join(PAGES.values())


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def test_pages_hold_what_was_recorded():
    assert card_pages(ROOT) == PAGES, "run make card"


def test_every_page_of_the_docs_is_reached_from_the_readme():
    assert {f"docs/{path.name}" for path in (ROOT / "docs").iterdir()} == {
        name for name in PAGES if name.startswith("docs/")
    }
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE.md"} <= PAGES.keys()


def test_every_section_stands_on_one_page():
    for name in SECTIONS:
        assert TEXT.count(f"<!-- {name} -->") == TEXT.count(f"<!-- /{name} -->") == 1, name


def test_readme_is_read_in_one_sitting():
    front, body = README.split("\n---\n", 1)
    assert len(body.splitlines()) <= 250 and len(front.splitlines()) <= 260


def test_the_model_index_holds_one_or_two_recorded_figures_of_each_test_set():
    """Against the recorded file, read here in a way of its own."""
    recorded = json.loads((ROOT / "results" / "eval_results.json").read_text("utf-8"))["results"]
    names = {"Topics": "topic", "NER": "ner", "Sentiment": "sentiment", "Targets": "target"}
    groups = {}
    results = ModelCard(README).data.eval_results
    for result in results:
        source = {hub_id: source for source, (hub_id, _) in DATASETS.items()}[result.dataset_type]
        group = f"{source}/{result.dataset_config}" if result.dataset_config else source
        head, _, rest = result.metric_name.partition(" ")
        metric = f"{names[head]}_{rest.replace(' ', '_')}"
        if group in recorded:
            assert result.metric_value == round(recorded[group][metric], 4), (group, metric)
        assert result.metric_type in result.metric_name and result.dataset_split == "test"
        groups.setdefault(group, []).append(metric)
    sources = {group.partition("/")[0] for group in recorded} - {"all"}
    assert sources <= groups.keys() and 12 <= len(results) <= 30
    assert all(len(metrics) <= 2 for metrics in groups.values())
    assert groups["conll2003"] == ["ner_f1"] and "sentiment_macro_recall" in groups["tweeteval"]


def test_every_source_that_the_weights_are_trained_on_has_a_licence():
    sources = set()
    for path in (ROOT / "configs").glob("*.yaml"):
        weights = yaml.safe_load(path.read_text("utf-8"))["sampling_weights"]
        sources |= {re.split("[/=]", entry)[0] for entry in weights}
    sources -= {"contrast", "reviews-entities"}  # made of the others' texts
    assert len(sources) > 50
    rows = dict(re.findall(r"^\| `(.+?)` .*\| (.+?) +\|$", PAGES["LICENSE.md"], re.MULTILINE))
    assert sources - rows.keys() == set()
    for source in rows:
        assert re.search(rf"^\| {re.escape(rows[source])} \| (.*, )?{source}(,.*)? \|$", README, re.MULTILINE), source


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
    records = [
        path.relative_to(ROOT) for place in ("results", "small/results") for path in (ROOT / place).rglob("*.json")
    ]
    for path in (*PAGES, "config.json", "results/everyday/everyday.md", *records):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    (tmp_path / "model.safetensors").symlink_to(ROOT / "model.safetensors")
    return tmp_path


def generated_numbers():
    """Places of generated figures: every third of the front matter, the first and the last of each section."""
    spots = [("README.md", match.start()) for match in re.finditer(r"(?<=value: 0\.)\d", README)][::3]
    for page, text in PAGES.items():
        for name in SECTIONS:
            if f"<!-- {name} -->" in text:
                start, end = text.index(f"<!-- {name} -->"), text.index(f"<!-- /{name} -->")
                digits = [start + match.start() for match in re.finditer(r"(?<=\d[.,])\d", text[start:end])]
                spots += [(page, spot) for spot in (digits[:1] + digits[-1:])]
    return spots


@pytest.mark.parametrize("page, spot", generated_numbers())
def test_a_figure_edited_by_hand_is_noticed(copy, page, spot):
    text = PAGES[page]
    edited = text[:spot] + str((int(text[spot]) + 1) % 10) + text[spot + 1 :]
    (copy / page).write_text(edited, "utf-8")
    assert card_pages(copy)[page] == text != edited


def test_a_figure_of_the_wild_edited_by_hand_is_noticed(copy):
    """The record comes with a new checkpoint: until then the page says that it is missing."""
    record = json.loads((ROOT / "results" / "eval_results.json").read_text("utf-8"))
    record["results"] = {
        "all": record["results"]["all"],
        "mams": {"rows": 485, "topic_f1": 0.71234, "topic_end_to_end_f1": 0.6543}
        | {f"topic_sentiment_{name}": 0.8321 for name in ("macro_f1", "accuracy", "from_text_macro_f1")}
        | {"topic_sentiment_from_text_accuracy": 0.5, "topic_sentiment_support": 1336},
        "newsmtsc": {"rows": 9, "target_sentiment_macro_f1": 0.7654},
        "btc": {"rows": 1000, "ner_f1": 0.61},
        "mine": {"rows": 2, "ner_f1": 0.3},
    }
    path = copy / "results" / "wild" / "eval_results.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record), "utf-8")
    pages = card_pages(copy)
    page = pages["docs/results.md"]
    assert re.search(r"^\| mams +\| +485 \| +0\.712 \|", page, re.MULTILINE) and "have not been" not in page
    values = {(r.dataset_type, r.metric_value) for r in ModelCard(pages["README.md"]).data.eval_results}
    assert {("mams", 0.6543), ("mams", 0.8321), ("btc", 0.61), ("newsmtsc", 0.7654)} <= values
    assert ("mams", 0.7123) not in values and ("mine", 0.3) not in values
    assert re.search(
        r"^\| mams +\| +1,336 \| 0\.832 \(0\.500\) \| 0\.832 \(0\.832\) \| +0\.654 \|$", page, re.MULTILINE
    )
    assert re.search(r"^\| Topics and their sentiment.*\| MAMS .* 0\.654 ", pages["README.md"], re.MULTILINE)
    (copy / "docs/results.md").write_text(page.replace("0.712", "0.812"), "utf-8")
    assert card_pages(copy) == pages
    record["weights_sha256"] = "0"
    path.write_text(json.dumps(record), "utf-8")
    with pytest.raises(ValueError, match="wild/eval_results.json was measured on other weights"):
        card_pages(copy)


def test_the_small_model_stands_beside_the_full_one(copy):
    for name in ("eval_results.json", "wild/eval_results.json"):
        for folder, values in (("results", (0.5, 0.9, 0.7, 0.6)), ("small/results", (0.49, 0.91, 0.7, 0.55))):
            path = copy / folder / name
            record = json.loads(path.read_text("utf-8"))
            metrics = ("topic_f1", "ner_f1", "sentiment_macro_f1", "topic_end_to_end_f1")
            record["results"]["all"] |= dict(zip(metrics, values))
            path.write_text(json.dumps(record), "utf-8")
    page = card_pages(copy)["docs/results.md"]
    table = page[page.index("<!-- small -->") : page.index("<!-- /small -->")]
    assert table.count("difference") == 2
    for line in table.splitlines():
        if "difference" in line:
            assert [cell.strip() for cell in line.split("|")[3:-1]] == ["-0.0100", "+0.0100", "+0.0000", "-0.0500"]
    (copy / "small/results/wild/eval_results.json").unlink()
    assert "make eval MODEL=small" in card_pages(copy)["docs/results.md"]


def test_everyday_texts_come_with_what_is_wrong(copy):
    """As `tsn.evaluation.everyday` writes the table; without one the page says so."""
    from tsn.evaluation.everyday import everyday_table

    path = copy / "results" / "everyday" / "everyday.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(everyday_table([{"text": "a|b", "wrong": ["x"]}, {"text": "c", "wrong": []}]), "utf-8")
    page = card_pages(copy)["docs/results.md"]
    assert "1 of 2 are right." in page and "| a\\|b | x |\n| c | right |\n<!-- /everyday -->" in page
    path.unlink()
    assert "have not answered them" in card_pages(copy)["docs/results.md"]


def test_a_recorded_result_that_changes_changes_the_card(copy):
    record = json.loads((copy / "results" / "eval_results.json").read_text("utf-8"))
    record["results"]["conll2003"]["ner_f1"] = 0.1234
    (copy / "results" / "eval_results.json").write_text(json.dumps(record), "utf-8")
    pages = card_pages(copy)
    assert "value: 0.1234" in pages["README.md"] and "| 0.123 |" in pages["README.md"]
    assert "|  0.123 |" in pages["docs/results.md"]


def test_results_of_other_weights_are_refused(copy):
    path = copy / "results/int8/eval_results.json"
    path.write_text(path.read_text("utf-8").replace('"weights_sha256": "', '"weights_sha256": "0'), "utf-8")
    with pytest.raises(ValueError, match="measured on another file"):
        card_pages(copy)


@pytest.mark.parametrize("page", [name for name in PAGES if name.startswith(("README", "docs/"))])
def test_prose_holds_no_figures(page):
    """Outside tables that commands fill, code, and the front matter: no decimal, no per cent, no megabytes."""
    text = ModelCard(PAGES[page]).text if page == "README.md" else PAGES[page]
    text = re.sub(r"<!-- ([\w-]+) -->.*?<!-- (/\1|end) -->", "", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    text = re.sub(r"\(4\.57 or any 5\.x\)|transformers (4\.57|5)|Python 3\.11|Apache-2\.0|arXiv:[\d.]+", "", text)
    if page == "docs/fuzzing.md":  # inputs and limits, not results
        text = text.replace("more than 60 s or\n4 GB", "")
    figures = re.findall(r".{20}\b\d+\.\d+.{9}|.{20}\d+ ?(?:%|MB|ms\b|GB|points|times).{5}", text)
    assert not figures, figures


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    for name in linked_files(PAGES[page], page):
        assert (ROOT / name).is_file(), name
    for target, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", without_code(PAGES[page])):
        text = PAGES[linked_files(f"[a]({target})", page)[0] if target else page]
        headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, anchor


def test_the_readme_links_to_pictures_and_records():
    assert len(linked_files(README)) > 10
    assert {"results/throughput.png", "results/eval_results.json", "LICENSE"} <= set(linked_files(README))


@pytest.mark.slow
def test_the_example_shows_what_the_model_answers():
    from transformers import pipeline

    blocks = r"```python\n(from transformers import pipeline.*?)```\s+```json\n(.*?)```"
    code, shown = re.search(blocks, README, re.DOTALL).groups()
    text = re.search(r'^tsn\("(.*)"\)$', code, re.MULTILINE)[1]
    answer = pipeline("topic-sentiment-ner", model=str(ROOT), trust_remote_code=True)(text)
    assert json.loads(json.dumps(answer), parse_float=lambda x: round(float(x), 2)) == json.loads(shown)


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
        (edit("docs/results.md", "<!-- /bench -->", ""), "docs/results.md has no <!-- bench -->"),
        (lambda folder: (folder / "docs" / "usage.md").unlink(), "docs/usage.md belongs to a release"),
    ],
)
def test_what_is_missing_is_named(copy, change, words):
    change(copy)
    with pytest.raises((OSError, ValueError), match=words):
        card_pages(copy)


def test_fill_replaces_what_stands_between_markers_and_nothing_else():
    text = "a\n<!-- x -->\nold\nlines\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    filled = "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n<!-- y -->\n2\n<!-- /y -->\n"
    assert fill(text, {"x": "new\n", "y": "2\n"}) == filled == fill(filled, {"x": "new\n", "y": "2\n"})
    with pytest.raises(ValueError, match="no <!-- z -->"):
        fill(text, {"z": ""})
    assert NEW_CARD.count("<!-- results -->") == 1
