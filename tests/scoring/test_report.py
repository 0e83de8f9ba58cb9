"""`report.py`: one page that needs no other file, with every count told in words, whatever the phrases hold."""

import re
from html.parser import HTMLParser

from tsn.scoring.report import report_page
from tsn.scoring.summary import Summary

NASTY = '</table><script>alert("x")</script> & {braces}'


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.tags, self.open = "", [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if "style" in self.open else data


def row(topics, entities, sentiment, error=None):
    """What `score.py` writes; every topic has the text's sentiment."""
    spans = [{"word": word, "score": 0.5, "start": 0, "end": len(word)} for word in (*topics, *entities)]
    feeling = {"sentiment": sentiment, "sentiment_score": 0.6}
    entities = [{**span, "entity_group": "ORG"} for span in spans[len(topics) :]]
    topics = [{**span, **feeling} for span in spans[: len(topics)]]
    return {"topics": topics, "entities": entities, "sentiment": sentiment, "error": error}


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


def test_the_page_shows_what_was_counted():
    summary = Summary()
    for result in [
        *[row(["screen"], [], "negative")] * 3,
        row(["screen", NASTY], [NASTY], "positive"),
        row([], [], None, "text is null"),
        row([], [], None),
    ]:
        summary.count(result)
    page = report_page(summary, [(NASTY, row([], [NASTY], "positive"))], f"{NASTY}.csv")
    reader = read(page)
    assert {tag for tag, _ in reader.tags} <= set(
        "html meta title style h1 h2 p table tr th td div i b small article mark".split()
    )
    assert not re.search(r"(src|href|url)\s*[=(]", page)  # nothing is loaded
    words = " ".join(reader.text.split())
    assert "6 rows, 1 of them could not be scored." in words
    assert "negative 75%, positive 25%" in words  # of the texts about the screen
    assert "unhappy abouttopictextssentiment about itscreen4negative 75%" in words
    assert f"{NASTY.casefold()} 1" not in words and NASTY.casefold() in words and words.count(NASTY) >= 3
    bars = [attributes["aria-label"] for tag, attributes in reader.tags if attributes.get("role") == "img"]
    assert "negative 60%" in bars and "none 20%" in bars


def test_nothing_to_show():
    words = " ".join(read(report_page(Summary(), [], "empty.txt")).text.split())
    assert "0 rows" in words and words.count("None.") == 3
