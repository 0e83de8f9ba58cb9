"""Copies of reviews in which a company, a person or a place is named.

Data sets of reviews annotate no entities, so a model learns from them that reviews have none: it does not find the
company that a customer writes of. Here names from the rows whose entities are annotated are put into reviews that
have none, as in mention replacement (Dai and Adel 2020, An Analysis of Simple Data Augmentation for Named Entity
Recognition), but into other sentences: behind a topic ("the service" becomes "the service at NAME"), or in a short
sentence of its own before or behind the review. All entities of such a copy are known.
"""

import random
import re

LONGEST = 40  # words of a review that gets a name
MOST_NAMES = 4000  # of each language and type to draw from
MOST_WORDS = 300_000  # to know in lower case
_CAPITAL = re.compile(r"(?<=[^\W\d_,;] )[^\W\d_a-zß-öø-ÿ]\w*|(?<=[,;] )[^\W\d_a-zß-öø-ÿ]\w*")
_NO_NAME = {"I", "I'm", "OK", "TV", "PC"}
_WORD = re.compile(r"[^\W\d_]+")
_FIRST = re.compile(r"(?:^\W*|[.!?:]\W+)([^\W\d_]+)")
_NAME = re.compile(r"[^\W\d_a-zß-öø-ÿ][\w&'’.-]*\w(?: [^\W\d_a-zß-öø-ÿ][\w&'’.-]*\w){0,2}")
_SLOT = re.compile(r"\{(ORG|PER|LOC)\}('s)?")
_SPANS = ("topics", "targets")
BEHIND_A_TOPIC = {
    "de": ("bei {ORG}", "von {ORG}", "in {LOC}", "von {PER}"),
    "en": ("at {ORG}", "from {ORG}", "of {ORG}", "in {LOC}", "from {PER}", "at {PER}'s"),
    "es": ("de {ORG}", "en {ORG}", "en {LOC}", "de {PER}"),
    "fr": ("chez {ORG}", "de {ORG}", "à {LOC}", "de {PER}"),
    "it": ("di {ORG}", "da {ORG}", "a {LOC}", "di {PER}"),
    "nl": ("van {ORG}", "bij {ORG}", "in {LOC}", "van {PER}"),
    "pt": ("da {ORG}", "na {ORG}", "em {LOC}", "do {PER}"),
}
SENTENCES = {
    "de": (
        *("Bei {ORG} in {LOC} bestellt.", "Ich bin jetzt bei {ORG}.", "Gekauft habe ich es bei {ORG}."),
        *("Mit {PER} war ich am Samstag dort.", "Das war in {LOC}.", "{PER} hatte mir davon erzählt."),
        *("Hier ist {PER} von {ORG}.", "{ORG} hat sich gemeldet.", "Gruß, {PER}", "Vorher war ich bei {ORG}."),
    ),
    "en": (
        *("I ordered it from {ORG}.", "Bought at {ORG} in {LOC}.", "I am with {ORG} now.", "This was in {LOC}."),
        *("{PER} told me about it.", "We went there with {PER} on Saturday.", "I came over from {ORG}."),
        *("This is {PER} from {ORG}.", "{ORG} got back to me.", "Regards, {PER}", "@{ORG}", "So I wrote to {ORG}."),
        *("{PER} here, calling about {ORG}.", "{ORG}, {LOC}.", "Then {PER} took over.", "I used to go to {ORG}."),
    ),
    "es": (
        *("Lo pedí en {ORG}.", "Lo compré en {LOC}.", "Ahora estoy con {ORG}.", "Fui con {PER} el sábado."),
        *(
            "{PER} me habló de esto.",
            "Soy {PER}, de {ORG}.",
            "{ORG} me contestó.",
            "Saludos, {PER}",
            "Esto fue en {LOC}.",
        ),
    ),
    "fr": (
        *("Commandé chez {ORG}.", "Acheté chez {ORG} à {LOC}.", "Maintenant je suis chez {ORG}.", "C'était à {LOC}."),
        *("{PER} m'en avait parlé.", "Ici {PER}, de {ORG}.", "{ORG} m'a répondu.", "Cordialement, {PER}"),
    ),
    "it": (
        *("L'ho ordinato da {ORG}.", "Comprato da {ORG} a {LOC}.", "Adesso sono con {ORG}.", "Eravamo a {LOC}."),
        *("Me ne aveva parlato {PER}.", "Sono {PER} di {ORG}.", "{ORG} mi ha risposto.", "Saluti, {PER}"),
    ),
    "nl": (
        *("Besteld bij {ORG}.", "Gekocht bij {ORG} in {LOC}.", "Ik zit nu bij {ORG}.", "Dit was in {LOC}."),
        *("{PER} had het me verteld.", "Met {PER} van {ORG}.", "{ORG} heeft gebeld.", "Groeten, {PER}"),
    ),
    "pt": (
        *("Pedi na {ORG}.", "Comprei na {ORG} em {LOC}.", "Agora estou com a {ORG}.", "Isto foi em {LOC}."),
        *("{PER} me falou disso.", "Aqui é {PER}, da {ORG}.", "{ORG} me respondeu.", "Abraços, {PER}"),
    ),
}


def capitals(text: str) -> list[tuple[int, int]]:
    """Where words with a capital stand that no sentence begins with."""
    return [match.span() for match in _CAPITAL.finditer(text) if match[0][0].isupper() and match[0] not in _NO_NAME]


class Names:
    """Names and words of the rows seen so far, and reviews with such names.

    Args:
        rng: What draws.
    """

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.names: dict[tuple[str, str], list[str]] = {}
        self.known: set[tuple[str, str, str]] = set()
        self.words: set[str] = set()

    def see(self, row: dict) -> None:
        """Takes up the names of a row's annotated entities, and the words that it has in lower case."""
        for entity in row["entities"] or []:
            name, kind = row["text"][entity["start"] : entity["end"]], entity["label"]
            key = (row["language"], kind, name)
            if key in self.known or not _NAME.fullmatch(name) or len(name) > 25 or (name.isupper() and len(name) > 4):
                continue
            self.known.add(key)
            pool = self.names.setdefault(key[:2], [])
            if len(pool) < MOST_NAMES:
                pool.append(name)
            else:
                pool[self.rng.randrange(MOST_NAMES)] = name
        if len(self.words) < MOST_WORDS:
            self.words.update(word for word in _WORD.findall(row["text"]) if word.islower())

    def put_into(self, row: dict) -> dict | None:
        """A copy of a review with names in it, or None where it is none, may hold names already, or is long.

        Its entities are all annotated; topics, targets and the sentiment are those of the review.
        """
        text, language = row["text"], row["language"]
        if row["entities"] is not None or language not in SENTENCES:
            return None
        if not any(topic.get("sentiment") for topic in row["topics"] or []):
            return None
        if len(text.split()) > LONGEST or self._may_have_names(row):
            return None
        places = _behind_topics(row)
        if places and self.rng.random() < 0.5:
            place = self.rng.choice(places)
            pieces = self._filled(" " + self.rng.choice(BEHIND_A_TOPIC[language]), language)
        else:
            sentence = self.rng.choice(SENTENCES[language])
            before = self.rng.random() < 0.5
            place = 0 if before else len(text)
            gap = " " if before or not text[-1].isalnum() else ". "
            pieces = self._filled(sentence + " " if before else gap + sentence, language)
        if pieces is None:
            return None
        inserted, entities = pieces
        new = {**row, "text": text[:place] + inserted + text[place:], "entity_types": None}
        new["entities"] = [{**e, "start": e["start"] + place, "end": e["end"] + place} for e in entities]
        for name in _SPANS:
            if row[name] is not None:
                new[name] = [_moved(span, place, len(inserted)) for span in row[name]]
        return new

    def _may_have_names(self, row):
        """A word with a capital within a sentence that is not in a topic (German nouns have capitals), or a first word
        of a sentence that was never seen in lower case."""
        text = row["text"]
        inner = capitals(text)
        if row["language"] == "de":
            inner = [c for c in inner if not any(t["start"] <= c[0] and c[1] <= t["end"] for t in row["topics"])]
        first = (word for word in _FIRST.findall(text) if word[0].isupper())
        return bool(inner) or any(word.lower() not in self.words for word in first)

    def _filled(self, template, language):
        """A template with names, and their spans as entities; None where there are no names."""
        text, entities, end = "", [], 0
        for slot in _SLOT.finditer(template):
            pools = [self.names[key] for key in ((language, slot[1]), ("en", slot[1])) if key in self.names]
            if not pools:
                return None
            pool = pools[0] if self.rng.random() < 0.6 else pools[-1]  # in any language, many names are English
            text += template[end : slot.start()]
            name = self.rng.choice(pool)
            kind = slot[1]
            if slot[2]:  # a restaurant or shop called after a person
                name, kind = name.split()[0] + slot[2], "ORG"
            entities.append({"start": len(text), "end": len(text) + len(name), "label": kind})
            text += name
            end = slot.end()
        return text + template[end:], entities


def _behind_topics(row):
    """Ends of topics that a word follows and that lie in no other span."""
    spans = [span for name in _SPANS for span in row[name] or []]
    ends = {t["end"] for t in row["topics"]}
    ends = {e for e in ends if not any(s["start"] < e < s["end"] for s in spans)}
    return sorted(e for e in ends if re.match(r" [^\W\d_]", row["text"][e:]))


def _moved(span, place, by):
    """A span of a text into which `by` characters were put at `place`."""
    start = span["start"] + by * (span["start"] >= place)
    return {**span, "start": start, "end": span["end"] + by * (span["end"] > place)}
