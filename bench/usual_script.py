"""What one writes for such a model without a library: one chunk at a time, tokenized, run and decoded in a loop."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

MAX_LENGTH = 128  # tokens; chunks of 50 words have fewer, nearly always


class UsualScript:
    """The int8 model on texts of at most 128 tokens; longer ones are truncated.

    Args:
        folder: A checkpoint with `onnx/model_quantized.onnx`.
    """

    def __init__(self, folder):
        folder = Path(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.session = onnxruntime.InferenceSession(
            folder / "onnx" / "model_quantized.onnx", providers=["CPUExecutionProvider"]
        )
        self.names = {value.name for value in self.session.get_inputs()}
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.topic_tags = split_labels(config["topic_labels"], "BIOES")
        self.ner_tags = split_labels(config["ner_labels"], config["ner_scheme"])
        self.sentiment_labels = config["sentiment_labels"]

    def __call__(self, text):
        """A dict like `TSNPipeline`'s."""
        encoding = self.tokenizer(
            text,
            padding="max_length",
            max_length=MAX_LENGTH,
            truncation=True,
            return_offsets_mapping=True,
            return_tensors="np",
        )
        offsets, word_ids = encoding["offset_mapping"][0].tolist(), encoding.word_ids(0)
        zeros = np.zeros_like(encoding["input_ids"])  # for token types, where the tokenizer gives none
        inputs = {name: encoding.get(name, zeros).astype(np.int64) for name in self.names}
        topic_logits, ner_logits, sentiment_logits = self.session.run(
            ["topic_logits", "ner_logits", "sentiment_logits"], inputs
        )
        topics, entities = [], []
        for tags, logits, found in ((self.topic_tags, topic_logits, topics), (self.ner_tags, ner_logits, entities)):
            probabilities = softmax(logits[0])  # (tokens, tags)
            best = probabilities.argmax(-1)  # (tokens,)
            spans = decode_spans([tags[i] for i in best], probabilities.max(-1).tolist(), offsets, word_ids)
            for kind, score, start, end in spans:
                found.append({"type": kind, "word": text[start:end], "score": score, "start": start, "end": end})
        scores = softmax(sentiment_logits[0])  # (classes,)
        label = self.sentiment_labels[int(scores.argmax())]
        sentiment = {"label": label, "scores": dict(zip(self.sentiment_labels, scores.tolist()))}
        return {"topics": topics, "sentiment": sentiment, "entities": entities}


def softmax(logits):
    """Probabilities over the last axis; same shape."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def split_labels(labels, scheme):
    """`(prefix, type)` of each label: `("B", "PER")`, and `("O", None)`; in the IO scheme the prefix is `"I"`."""
    if scheme == "IO":
        return [("O", None) if label == "O" else ("I", label) for label in labels]
    return [("O", None) if label == "O" else tuple(label.split("-", 1)) for label in labels]


def decode_spans(tags, scores, offsets, word_ids):
    """Merges sub-words to words by their first sub-word's tag, and words to spans.

    Args:
        tags: `(prefix, type)` of each token.
        scores: Probability of each token's tag.
        offsets: `(start, end)` of each token in characters.
        word_ids: Word of each token, None for special tokens.

    Returns:
        List of `(type, score, start, end)`; the score is the mean of the words'.
    """
    spans, current, last_word = [], None, None
    for (prefix, kind), score, (start, end), word in zip(tags, scores, offsets, word_ids):
        if word is None:
            continue
        if word == last_word:  # a further sub-word belongs to its word, whatever its own tag
            if current is not None:
                current["end"] = end
            continue
        last_word = word
        if current is not None and (prefix in ("O", "B", "S") or kind != current["type"]):
            spans.append(current)
            current = None
        if prefix == "O":
            continue
        if current is None:
            current = {"type": kind, "start": start, "end": end, "scores": [score]}
        else:
            current["end"] = end
            current["scores"].append(score)
    if current is not None:
        spans.append(current)
    return [(span["type"], sum(span["scores"]) / len(span["scores"]), span["start"], span["end"]) for span in spans]
