"""A summary of many scored texts: counts that stay small, however many texts there are."""

from collections import Counter
from math import sqrt

from tsn.tables import markdown_table

KEPT = 20_000  # distinct phrases; beyond twice as many, the rarest are dropped
SHOWN = 15
LIKELY = 0.5  # entities with a lower score are more often wrong than right, and are not counted


class Summary:
    """Counts of rows, sentiments, topics and entities, which can be added up from parts.

    A text counts once for each topic and each entity. If it speaks both well and badly of one, the mention with the
    highest `sentiment_score` decides.

    Attributes:
        rows, errors: Number of rows, and of those that could not be scored.
        sentiments: Texts by label, `{label: texts}`; the label of a text without a word is None.
        topics: Texts by topic and its sentiment, `{(topic, label): texts}`; topics are case-folded.
        entities: Texts by type, name and sentiment, `{(type, name, label): texts}`, of entities with a score of at
            least `LIKELY`.
    """

    def __init__(self, state=None):
        state = state or {}
        self.rows, self.errors = state.get("rows", 0), state.get("errors", 0)
        self.sentiments = Counter(dict(state.get("sentiments", [])))
        self.topics = Counter({tuple(key): texts for *key, texts in state.get("topics", [])})
        self.entities = Counter({tuple(key): texts for *key, texts in state.get("entities", [])})

    @property
    def wordless(self):
        """Number of texts without a word, which have no sentiment."""
        return self.sentiments[None]

    @property
    def shares(self):
        """`(label, texts, share)` of each sentiment, of the texts that have one."""
        labels = sorted(label for label in self.sentiments if label is not None)
        total = sum(self.sentiments[label] for label in labels)
        return [(label, self.sentiments[label], self.sentiments[label] / total) for label in labels]

    @property
    def rows_line(self):
        """How many rows there are, and how many of them are not among the shares."""
        line = f"{self.rows:,} rows, {self.errors:,} of them could not be scored."
        return f"{line} Texts without a word, not counted below: {self.wordless:,}." if self.wordless else line

    def count(self, row):
        """Counts a row that `score.py` made."""
        self.rows += 1
        if row["error"] is not None:
            self.errors += 1
            return
        self.sentiments[row["sentiment"]] += 1
        topics = ((" ".join(topic["word"].casefold().split()), topic) for topic in row["topics"])
        self.topics.update((topic, label) for topic, label in _sentiment_of_each(topics).items())
        likely = (entity for entity in row["entities"] if entity["score"] >= LIKELY)
        entities = (((entity["entity_group"], " ".join(entity["word"].split())), entity) for entity in likely)
        self.entities.update((*entity, label) for entity, label in _sentiment_of_each(entities).items())

    def add(self, other):
        """Adds another summary, and drops the rarest phrases if there are too many."""
        self.rows, self.errors = self.rows + other.rows, self.errors + other.errors
        self.sentiments.update(other.sentiments)
        for name in ("topics", "entities"):
            counts = getattr(self, name)
            counts.update(getattr(other, name))
            if len(counts) > 2 * KEPT:
                setattr(self, name, Counter(dict(counts.most_common(KEPT))))

    def state(self):
        """The counts as JSON can hold them, for the constructor."""
        return {
            "rows": self.rows,
            "errors": self.errors,
            "sentiments": [[label, texts] for label, texts in self.sentiments.items()],
            "topics": [[*key, texts] for key, texts in self.topics.items()],
            "entities": [[*key, texts] for key, texts in self.entities.items()],
        }

    def top_topics(self):
        """The most frequent topics, `((topic,), texts, {label: texts})`."""
        return _by_phrase(self.topics)[:SHOWN]

    def top_entities(self, most):
        """The most frequent entities of each type, `((type, name), texts, {label: texts})`."""
        entities = _by_phrase(self.entities)
        kinds = sorted({kind for (kind, _), *_ in entities})
        return [entity for kind in kinds for entity in [e for e in entities if e[0][0] == kind][:most]]

    def unhappy_topics(self):
        """The topics that most of their texts are negative about, the surest first; see `_spoken_of`."""
        return _spoken_of(_by_phrase(self.topics), "negative")

    def entities_spoken_of(self, label):
        """The entities that most of their texts speak of with this sentiment, the surest first; see `_spoken_of`."""
        return _spoken_of(_by_phrase(self.entities), label)

    def tables(self):
        """The summary in Markdown.

        Sentiments; the most frequent topics, and those that people are unhappy about; the most frequent entities of
        each type, and those that are spoken of well and badly.
        """
        sentiments = [["sentiment", "texts", "share"]]
        sentiments += [[label, f"{texts:,}", f"{share:.1%}"] for label, texts, share in self.shares]
        labels = sorted({label for *_, label in (*self.topics, *self.entities)})
        tables = [
            markdown_table(sentiments) if self.shares else "No sentiments.\n",
            _phrase_table(["topic"], self.top_topics(), labels) or "No topics.\n",
            _phrase_table(["unhappy about"], self.unhappy_topics(), labels),
            _phrase_table(["type", "entity"], self.top_entities(SHOWN // 3), labels) or "No entities.\n",
            _phrase_table(["type", "spoken of well"], self.entities_spoken_of("positive"), labels),
            _phrase_table(["type", "spoken of badly"], self.entities_spoken_of("negative"), labels),
        ]
        return "\n".join([f"{self.rows_line}\n", *filter(None, tables)])


def _sentiment_of_each(mentions):
    """Returns the sentiment of each phrase in a text, from `(phrase, span)` pairs: that of its surest mention."""
    ordered = sorted(mentions, key=lambda mention: mention[1]["sentiment_score"])
    return {phrase: span["sentiment"] for phrase, span in ordered}


def _by_phrase(counts):
    """Returns `(phrase, texts, {label: texts})` of every phrase, the most frequent first.

    Args:
        counts: `{(*phrase, label): texts}`.
    """
    labels = {}
    for (*phrase, label), texts in counts.items():
        labels.setdefault(tuple(phrase), {})[label] = texts
    phrases = [(phrase, sum(own.values()), own) for phrase, own in labels.items()]
    return sorted(phrases, key=lambda entry: -entry[1])


def _spoken_of(phrases, label):
    """Returns the phrases that more than half of their texts speak of with this sentiment, the surest first.

    They are ordered by the lower bound of Wilson's 95 % interval for the share of such texts (Wilson 1927), so that
    one complaint out of one text does not come before ninety out of a hundred.
    """
    ranked = []
    for phrase, texts, labels in phrases:
        hits = labels.get(label, 0)
        if 2 * hits > texts:
            ranked.append((-_wilson_lower_bound(hits, texts), -texts, phrase, labels))
    ranked.sort(key=lambda entry: entry[:3])
    return [(phrase, -texts, labels) for _, texts, phrase, labels in ranked[:SHOWN]]


def _wilson_lower_bound(hits, trials, z=1.96):
    share, spread = hits / trials, z * z / trials
    return (share + spread / 2 - z * sqrt(share * (1 - share) / trials + spread / (4 * trials))) / (1 + spread)


def _phrase_table(head, phrases, labels):
    """Returns a Markdown table of phrases and the share of each sentiment, or an empty string without phrases."""
    lines = [[*head, "texts", *labels]]
    for phrase, texts, counts in phrases:
        lines.append([*phrase, f"{texts:,}", *(f"{counts.get(label, 0) / texts:.0%}" for label in labels)])
    return markdown_table(lines, left=len(head)) if phrases else ""
