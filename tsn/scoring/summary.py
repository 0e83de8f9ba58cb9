"""What came out of scoring many texts: counts that stay small, however many there are."""

from collections import Counter
from math import sqrt

from tsn.tables import markdown_table

KEPT = 20_000  # distinct phrases; the rarest are forgotten beyond twice as many
SHOWN = 15
LIKELY = 0.5  # score of an entity that counts: those below are more often wrong than right


class Summary:
    """Counts of rows, sentiments, topics and entities; adds up from parts.

    Attributes:
        rows, errors: Numbers of rows, and of those that could not be scored.
        sentiments: Texts by label; None stands for those without a word.
        topics: Texts by topic and its sentiment in them, `{(topic, label): texts}`; a topic is case-folded. A text
            that both praises and blames it counts as the one of its surest mention.
        entities: Texts by type and name, where an entity's score is at least `LIKELY`.
    """

    def __init__(self, state=None):
        state = state or {}
        self.rows, self.errors = state.get("rows", 0), state.get("errors", 0)
        self.sentiments = Counter(dict(state.get("sentiments", [])))
        self.topics = Counter({(topic, label): n for topic, label, n in state.get("topics", [])})
        self.entities = Counter({(kind, name): n for kind, name, n in state.get("entities", [])})

    def count(self, result):
        """Counts a row that `score.py` made."""
        self.rows += 1
        if result["error"] is not None:
            self.errors += 1
            return
        self.sentiments[result["sentiment"]] += 1
        by_score = sorted(result["topics"], key=lambda topic: topic["sentiment_score"])
        surest = {" ".join(topic["word"].casefold().split()): topic["sentiment"] for topic in by_score}
        self.topics.update(surest.items())
        likely = (entity for entity in result["entities"] if entity["score"] >= LIKELY)
        self.entities.update(dict.fromkeys(((e["entity_group"], " ".join(e["word"].split())) for e in likely), 1))

    def add(self, other):
        """Adds another summary up, and forgets the rarest phrases if there are too many."""
        self.rows, self.errors = self.rows + other.rows, self.errors + other.errors
        self.sentiments.update(other.sentiments)
        for name in ("topics", "entities"):
            counts = getattr(self, name)
            counts.update(getattr(other, name))
            if len(counts) > 2 * KEPT:
                setattr(self, name, Counter(dict(counts.most_common(KEPT))))

    def state(self):
        """As JSON takes it, for the constructor."""
        return {
            "rows": self.rows,
            "errors": self.errors,
            "sentiments": [[label, n] for label, n in self.sentiments.items()],
            "topics": [[*key, n] for key, n in self.topics.items()],
            "entities": [[*key, n] for key, n in self.entities.items()],
        }

    def top_topics(self):
        """The most frequent topics, `(topic, texts, {label: texts})`."""
        return self._by_topic()[:SHOWN]

    def unhappy_topics(self):
        """The topics that most texts are negative about, as `top_topics`, the surest first.

        They rank by the lower bound of Wilson's 95 % interval for the share of negative texts (Wilson 1927), so that
        one complaint about one thing does not stand above ninety in a hundred. None without a sentiment `negative`.
        """
        found = []
        for topic, n, labels in self._by_topic():
            negative = labels.get("negative", 0)
            if 2 * negative > n:
                found.append((_wilson_lower_bound(negative, n), n, topic, labels))
        found.sort(key=lambda entry: (-entry[0], -entry[1], entry[2]))
        return [(topic, n, labels) for _, n, topic, labels in found[:SHOWN]]

    def _by_topic(self):
        """`(topic, texts, {label: texts})` of every topic, the most frequent first."""
        labels = {}
        for (topic, label), n in self.topics.items():
            labels.setdefault(topic, {})[label] = n
        found = [(topic, sum(counts.values()), counts) for topic, counts in labels.items()]
        return sorted(found, key=lambda entry: -entry[1])

    def top_entities(self, most):
        """The most frequent entities of each type, `(type, name, texts)`."""
        found = []
        for kind in sorted({kind for kind, _ in self.entities}):
            of_kind = Counter({name: n for (k, name), n in self.entities.items() if k == kind})
            found += [(kind, name, n) for name, n in of_kind.most_common(most)]
        return found

    def tables(self):
        """Sentiment shares, top topics and those people are unhappy about with their sentiment, and entities by type,
        as Markdown."""
        scored = sum(self.sentiments.values()) or 1
        lines = [["sentiment", "texts", "share"]]
        for label, n in sorted(self.sentiments.items(), key=lambda item: str(item[0])):
            lines.append([label or "none", f"{n:,}", f"{n / scored:.1%}"])
        parts = [markdown_table(lines)]
        labels = sorted({label for _, label in self.topics})
        for name, topics in (("topic", self.top_topics()), ("unhappy about", self.unhappy_topics())):
            lines = [[name, "texts", *labels]]
            for topic, n, counts in topics:
                lines.append([topic, f"{n:,}", *(f"{counts.get(label, 0) / n:.0%}" for label in labels)])
            if topics:
                parts.append(markdown_table(lines))
        if not self.topics:
            parts.append("No topics.\n")
        lines = [["type", "entity", "texts"]]
        lines += [[kind, name, f"{n:,}"] for kind, name, n in self.top_entities(SHOWN // 3)]
        parts.append(markdown_table(lines, left=2) if len(lines) > 1 else "No entities.\n")
        head = f"{self.rows:,} rows, {self.errors:,} of them could not be scored.\n"
        return "\n".join([head, *parts])


def _wilson_lower_bound(hits, trials, z=1.96):
    share, spread = hits / trials, z * z / trials
    return (share + spread / 2 - z * sqrt(share * (1 - share) / trials + spread / (4 * trials))) / (1 + spread)
