"""Fills the model card, README.md, and the pages that it links to from recorded results: no figure is typed by hand.

    python -m tsn.hub.card            # the card of this folder
    python -m tsn.hub.card out/new    # the card of a checkpoint with its results/; begun if it has none

A table stands between `<!-- name -->` and `<!-- /name -->`, see `tsn.hub.sections`. In README.md's front matter,
`model-index` and `metrics` are written here. Everything else is left as its author wrote it.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from tsn.heads import MAIN_METRICS
from tsn.hub.figures import plot_quality
from tsn.hub.files import CARD, TASK, read_pages
from tsn.hub.sections import SECTIONS, WILD_RESULTS, read
from tsn.paths import EVAL_RESULTS, INT8_RESULTS, RESULTS, ROOT

INT8_MARKER = "<!-- int8 -->"
TITLES = {  # of each head: its name in the metadata and its task on the Hub
    "topic": ("Topics", "token-classification"),
    "ner": ("NER", "token-classification"),
    "sentiment": ("Sentiment", "text-classification"),
    "target": ("Targets", "text-classification"),
}
DATASETS = {  # source: (id on the Hub, name)
    "all": ("tsn-test", "all test rows"),
    "conll2003": ("eriktks/conll2003", "CoNLL-2003"),
    "inspec": ("midas/inspec", "Inspec"),
    "laptop14": ("semeval-2014-task-4-laptops", "SemEval-2014 task 4, laptops"),
    "restaurant14": ("semeval-2014-task-4-restaurants", "SemEval-2014 task 4, restaurants"),
    "semeval2017": ("midas/semeval2017", "SemEval-2017 task 10"),
    "tweeteval": ("cardiffnlp/tweet_eval", "TweetEval sentiment"),
    "umsab": ("cardiffnlp/tweet_sentiment_multilingual", "UMSAB"),
    "wikineural": ("Babelscape/wikineural", "WikiNEuRal"),
    "mams": ("mams", "MAMS"),
    "newsmtsc": ("newsmtsc", "NewsMTSC"),
    "semeval16_es": ("semeval-2016-task-5-es", "SemEval-2016 task 5 (es)"),
    "semeval16_fr": ("semeval-2016-task-5-fr", "SemEval-2016 task 5 (fr)"),
    "semeval16_nl": ("semeval-2016-task-5-nl", "SemEval-2016 task 5 (nl)"),
    "btc": ("btc", "Broad Twitter Corpus"),
    "germeval14": ("germeval_14", "GermEval 2014"),
}
HEADLINES = {  # test set: its metrics in the front matter; `results/` holds the rest
    "conll2003": ["ner_f1"],
    "inspec": ["topic_f1", "topic_f1@M"],
    "laptop14": ["topic_f1", "topic_sentiment_macro_f1"],
    "restaurant14": ["topic_f1", "topic_sentiment_macro_f1"],
    "semeval2017": ["topic_f1"],
    "tweeteval": ["sentiment_macro_recall", "sentiment_macro_f1"],
    **{group: ["sentiment_macro_f1"] for group in ("umsab", *(f"umsab/{code}" for code in "de es fr it pt".split()))},
    "wikineural": ["ner_f1"],
    # of test_wild.parquet
    "mams": ["topic_sentiment_macro_f1", "topic_end_to_end_f1"],
    **{group: ["topic_end_to_end_f1"] for group in ("semeval16_es", "semeval16_fr", "semeval16_nl")},
    "newsmtsc": ["target_sentiment_macro_f1"],
    **{group: ["ner_f1"] for group in ("btc", "germeval14")},
}
NEW_CARD = """---
library_name: transformers
pipeline_tag: token-classification
---

# {name}

Topics (key phrases), sentiment and named entities of a text in one read.

```python
from transformers import pipeline

tsn = pipeline("{task}", model="ORG/{name}", trust_remote_code=True)
```

## Results

<!-- results -->
<!-- /results -->
"""


def evaluation_results(record):
    """The `EvalResult`s of a record of `eval.py`, to four decimals: the headline metrics of the test sets of
    `HEADLINES`, or, if there are none of them, the main metrics of every source and language.

    Raises:
        ValueError: it was measured on training or validation data.
    """
    for name in record["data"]:
        if re.search("train|valid", name, re.IGNORECASE):
            raise ValueError(f"{EVAL_RESULTS} was measured on {name}; a card holds results of test data")
    groups = record["results"]
    shown = {group: HEADLINES[group] for group in groups if group in HEADLINES}
    results = [
        _evaluation_result(group, metric, groups[group][metric])
        for group, metrics in (shown or dict.fromkeys(groups, list(MAIN_METRICS.values()))).items()
        for metric in metrics
        if metric in groups[group]
    ]
    order = list(dict.fromkeys(result.unique_identifier for result in results))  # as model-index groups them
    return sorted(results, key=lambda result: order.index(result.unique_identifier))


def _evaluation_result(group, metric, value):
    source, _, language = group.partition("/")
    dataset_type, dataset_name = DATASETS.get(source, (re.sub(r"[^\w./-]+", "-", source), source))
    head, _, rest = metric.partition("_")
    title, task = TITLES[head]
    return EvalResult(
        task_type=task,
        dataset_type=dataset_type,
        dataset_name=f"{dataset_name} ({language})" if language else dataset_name,
        dataset_config=language or None,
        dataset_split="test",
        metric_type=rest.partition("@")[0].rpartition("_")[2],
        metric_name=f"{title} {rest.replace('_', ' ')}",
        metric_value=round(value, 4),
    )


def fill(text, contents, page=CARD):
    """The text with each section's content between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    for name, content in contents.items():
        head, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, tail = rest.partition(f"<!-- /{name} -->")
        if not opening or not closing:
            raise ValueError(f"{page} has no <!-- {name} --> ... <!-- /{name} -->")
        text = f"{head}{opening}{content}{closing}{tail}"
    return text


def card_pages(folder):
    """The card of a checkpoint's folder and the pages that it links to: names to texts, as the recorded results say.

    Raises:
        OSError: README.md or a recorded result is missing.
        ValueError: results do not belong together, or the metadata are not valid.
    """
    if not (folder / CARD).exists():
        raise OSError(f"{folder} has no README.md: python -m tsn.hub.card {folder} begins one")
    pages = read_pages(folder)
    if not any("<!-- results -->" in text for text in pages.values()):
        raise ValueError(f"{CARD} has no <!-- results --> ... <!-- /results -->, nor has a page that it links to")
    try:
        for page, text in pages.items():
            names = [name for name in SECTIONS if f"<!-- {name} -->" in text]
            pages[page] = fill(text, {name: SECTIONS[name](folder) for name in names}, page)
        results = evaluation_results(read(folder, EVAL_RESULTS))
        if (folder / WILD_RESULTS).exists():
            results += evaluation_results(read(folder, WILD_RESULTS))
    except FileNotFoundError as error:
        raise OSError(f"README.md needs {error.filename}, which make eval, int8 or bench writes") from error
    pages[CARD] = _with_metadata(pages[CARD], results, folder.name)
    return pages


def _with_metadata(text, results, name):
    """The card with these results in its front matter."""
    card = ModelCard(text)
    data = cast(ModelCardData, card.data)
    data.model_name = data.model_name or name
    data.eval_results = results
    data.metrics = sorted({result.metric_type for result in results} & {"f1", "precision", "recall", "accuracy"})
    content = str(card)
    again = ModelCard(content)
    if cast(ModelCardData, again.data).eval_results != results or again.text != card.text or str(again) != content:
        raise ValueError("README.md's metadata are not the same when they are read again")
    return content


def write_pages(folder, pages):
    """Writes the pages that differ from what is on disk, and returns their names."""
    changed = [name for name, text in pages.items() if (folder / name).read_text(encoding="utf-8") != text]
    for name in changed:
        (folder / name).write_bytes(pages[name].encode())
    return changed


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tsn.hub.card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", default=ROOT, help="folder of the model (default: this one)")
    folder = Path(parser.parse_args(argv).checkpoint).resolve()
    try:
        if not (folder / CARD).exists() and (folder / "config.json").exists():
            (folder / CARD).write_bytes(NEW_CARD.format(name=folder.name, task=TASK).encode())
        write_pages(folder, card_pages(folder))
        if (folder / RESULTS / "bench.json").exists():
            records = (read(folder, RESULTS / "bench.json"), read(folder, EVAL_RESULTS))
            plot_quality(*records, read(folder, INT8_RESULTS), folder / RESULTS / "quality.png")
    except (OSError, ValueError) as error:
        sys.exit(f"tsn.hub.card: {error}")


if __name__ == "__main__":
    main()
