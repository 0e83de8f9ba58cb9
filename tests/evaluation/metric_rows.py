"""Rows as the metric takes them: builders, examples and strategies."""

from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=50, deadline=None)
TYPES = ["PER", "LOC", "ORG", "MISC"]
SENTIMENTS = ["negative", "neutral", "positive"]


def topic(start, word, score=None):
    span = {"start": start, "end": start + len(word), "word": word}
    return span if score is None else span | {"score": score}


def entity(start, end, label):
    return {"start": start, "end": end, "label": label}


def prediction(topics=(), entities=(), sentiment="neutral"):
    return {"topics": list(topics), "entities": list(entities), "sentiment": sentiment}


def reference(topics=None, entities=None, sentiment=None):
    return {"topics": topics, "entities": entities, "sentiment": sentiment}


PREDICTIONS = [
    prediction([topic(0, "payment method", 0.9), topic(40, "customers", 0.4)], [entity(0, 9, "ORG")], "positive"),
    prediction([topic(3, "battery", 0.7)], [entity(5, 9, "LOC"), entity(20, 24, "PER")], "negative"),
    prediction([], [entity(1, 4, "MISC")], "neutral"),
]
REFERENCES = [
    reference(None, [entity(0, 9, "ORG"), entity(21, 29, "LOC")], None),
    reference([topic(3, "battery"), topic(30, "price")], None, "negative"),
    reference([], [], "positive"),
]


# Hypothesis: rows of one text each

# Of different lengths: in a text, two spans with the same offsets are the same word
words = st.sampled_from(["graph", "network", "networks", "key phrase", "Key  Phrases"])
offsets = st.integers(0, 5)
predicted_topics = st.lists(st.builds(topic, offsets, words, st.floats(0, 1)), max_size=12)
gold_topics = st.lists(st.builds(topic, offsets, words), max_size=6)
entities = st.lists(st.builds(entity, offsets, offsets, st.sampled_from(TYPES)), max_size=6)
sentiments = st.sampled_from(SENTIMENTS)
rows = st.lists(
    st.tuples(
        st.builds(prediction, predicted_topics, entities, sentiments),
        st.builds(reference, st.none() | gold_topics, st.none() | entities, st.none() | sentiments),
    ),
    max_size=6,
)
