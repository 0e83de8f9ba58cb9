"""`highlight_tsn.py`: the HTML shows the text, whatever is in it, and the spans where they are."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from highlight_tsn import chunk_sentiments, highlighted


class Reader(HTMLParser):
    """What a browser would show: the text, and of each character the elements that it stands in."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.text, self.open, self.inside, self.closed_wrong = "", [], [], False

    def handle_starttag(self, tag, attributes):
        self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self.closed_wrong |= self.open.pop()[0] != tag

    def handle_data(self, data):
        self.text += data
        self.inside += [dict(self.open)] * len(data)


def spans(draw, length, **more):
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=6, unique=True)))
    return [{"start": a, "end": b, "score": 0.5, **more} for a, b in zip(cuts[::2], cuts[1::2])]


@st.composite
def answers(draw):
    text = draw(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=30))
    text = draw(st.sampled_from([text, f'<b>{text}</b> & "x" <script>alert(1)</script>']))
    topics = spans(draw, len(text), sentiment='n"<', sentiment_score=0.6)
    feeling = draw(st.sampled_from([{}, {"sentiment": 'n"<', "sentiment_score": 0.6}]))
    return text, {"topics": topics, "entities": spans(draw, len(text), entity_group='P"E<R', **feeling)}


@given(answers())
def test_the_text_and_its_spans_are_shown(given):
    text, result = given
    reader, html = Reader(), highlighted(text, result)
    reader.feed(html)
    reader.close()
    assert reader.text == text and not reader.open and not reader.closed_wrong
    for name, tag in (("topics", "u"), ("entities", "mark")):
        covered = {i for span in result[name] for i in range(span["start"], span["end"])}
        assert {i for i, elements in enumerate(reader.inside) if tag in elements} == covered
    for elements in reader.inside:
        assert elements.keys() <= {"div", "u", "mark"}
        assert elements.get("mark", {}).get("data-type", 'P"E<R') == 'P"E<R'
        assert elements.get("mark", {}).get("data-sentiment", 'n"<') == 'n"<'
    if result["entities"]:
        assert ('" data-sentiment="n&quot;&lt;" title="P' in html) == ("sentiment" in result["entities"][0])


def test_an_entity_over_several_topics_is_one_mark():
    result = {
        "topics": [
            {"start": 0, "end": 2, "score": 0.9, "sentiment": "negative", "sentiment_score": 0.75},
            {"start": 3, "end": 5, "score": 0.8, "sentiment": "positive", "sentiment_score": 0.5},
        ],
        "entities": [
            {
                "start": 0,
                "end": 5,
                "score": 0.7,
                "entity_group": "ORG",
                "sentiment": "negative",
                "sentiment_score": 0.6,
            }
        ],
    }
    html = highlighted("ab cd", result)
    assert html.count("<mark ") == html.count("</mark>") == 1 and html.count("<u ") == 2
    assert '<mark data-type="ORG" data-sentiment="negative" title="ORG, score 0.70; negative, score 0.60">' in html
    del result["entities"][0]["sentiment"], result["entities"][0]["sentiment_score"]  # of an older version
    assert '<mark data-type="ORG" title="ORG, score 0.70">' in highlighted("ab cd", result)
    assert '<u data-sentiment="negative" title="topic, score 0.90; negative, score 0.75">ab</u>' in html


def test_chunks_are_listed_with_their_scores(pipe):
    text = "<b>Fine</b> & dandy. " * 8
    chunks = pipe(text, max_words=10, return_chunks=True)["chunks"]
    reader = Reader()
    reader.feed(chunk_sentiments(text, chunks))
    assert not reader.open and not reader.closed_wrong and len(chunks) > 1
    for chunk in chunks:
        sentiment = chunk["sentiment"]
        shares = ", ".join(f"{name} {score:.2f}" for name, score in sentiment["scores"].items())
        assert f"{sentiment['label']} ({shares}){text[chunk['start'] : chunk['end']]}" in reader.text
