"""`tsn/scoring/report.py`: one page that loads no other file and says every count in words, whatever the phrases."""

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
    """A row of `score.py`; every topic and entity has the text's sentiment."""
    about = {"sentiment": sentiment, "sentiment_score": 0.6}
    spans = [{"word": word, "score": 0.5, "start": 0, "end": len(word), **about} for word in (*topics, *entities)]
    entities = [{**span, "entity_group": "ORG"} for span in spans[len(topics) :]]
    topics = spans[: len(topics)]
    return {"topics": topics, "entities": entities, "sentiment": sentiment, "error": error}


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


def test_the_page_shows_what_was_counted():
    summary = Summary()
    for result in [
        *[row(["screen"], ["Acme"], "negative")] * 3,
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
    assert "6 rows, 1 of them could not be scored. Texts without a word, not counted below: 1." in words
    assert "negative 75%, positive 25%" in words  # of the texts about the screen
    assert "unhappy about topictextssentiment about itscreen4negative 75%" in words
    assert f"spoken of well typeentitytextssentiment about itORG{NASTY}1positive 100%" in words
    assert "spoken of badly typeentitytextssentiment about itORGAcme3negative 100%" in words
    assert f"{NASTY.casefold()} 1" not in words and NASTY.casefold() in words and words.count(NASTY) >= 3
    bars = [attributes["aria-label"] for tag, attributes in reader.tags if attributes.get("role") == "img"]
    assert bars[:2] == ["negative 75%", "positive 25%"]  # of the texts that have a sentiment


def test_nothing_to_show():
    words = " ".join(read(report_page(Summary(), [], "empty.txt")).text.split())
    assert "0 rows" in words and words.count("None.") == 3
