"""What came out of scoring many texts: counts that stay small, however many there are."""

from collections import Counter

from table_tsn import markdown_table

KEPT = 20_000  # distinct phrases; the rarest are forgotten beyond twice as many
SHOWN = 15


class Summary:
    """Counts of rows, sentiments, topics and entities; adds up from parts.

    Attributes:
        rows, errors: Numbers of rows, and of those that could not be scored.
        sentiments: Texts by label; None stands for those without a word.
        topics: Texts by topic and label, `{(topic, label): texts}`; a topic is case-folded.
        entities: Texts by type and name.
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
        label = result["sentiment"]
        self.sentiments[label] += 1
        for topic in {" ".join(topic["word"].casefold().split()) for topic in result["topics"]}:
            self.topics[topic, label] += 1
        for entity in {(e["entity_group"], " ".join(e["word"].split())) for e in result["entities"]}:
            self.entities[entity] += 1

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
        totals, labels = Counter(), {}
        for (topic, label), n in self.topics.items():
            totals[topic] += n
            labels.setdefault(topic, {})[label] = n
        return [(topic, n, labels[topic]) for topic, n in totals.most_common(SHOWN)]

    def top_entities(self, most):
        """The most frequent entities of each type, `(type, name, texts)`."""
        found = []
        for kind in sorted({kind for kind, _ in self.entities}):
            of_kind = Counter({name: n for (k, name), n in self.entities.items() if k == kind})
            found += [(kind, name, n) for name, n in of_kind.most_common(most)]
        return found

    def tables(self):
        """Sentiment shares, top topics with their texts' sentiment, and entities by type, as Markdown."""
        scored = sum(self.sentiments.values()) or 1
        labels = sorted((label for label in self.sentiments if label), key=str)
        lines = [["sentiment", "texts", "share"]]
        for label, n in sorted(self.sentiments.items(), key=lambda item: str(item[0])):
            lines.append([label or "none", f"{n:,}", f"{n / scored:.1%}"])
        parts = [markdown_table(lines)]
        lines = [["topic", "texts", *labels]]
        for topic, n, _ in self.top_topics():
            lines.append([topic, f"{n:,}", *(f"{self.topics[topic, label] / n:.0%}" for label in labels)])
        parts.append(markdown_table(lines) if len(lines) > 1 else "No topics.\n")
        lines = [["type", "entity", "texts"]]
        lines += [[kind, name, f"{n:,}"] for kind, name, n in self.top_entities(SHOWN // 3)]
        parts.append(markdown_table(lines, left=2) if len(lines) > 1 else "No entities.\n")
        head = f"{self.rows:,} rows, {self.errors:,} of them could not be scored.\n"
        return "\n".join([head, *parts])
