"""The pipeline: text in; topics, sentiment and entities with their offsets out."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers.dynamic_module_utils import custom_object_save
from transformers.pipelines.base import ChunkPipeline

try:
    from .chunking_tsn import check_chunk_sizes, encode_chunks, padding_values, tag_words, token_limit
    from .onnx_tsn import OUTPUTS, TSNOnnxModel
    from .tagging_tsn import first_subtokens, group_means, ranges, softmax
except ImportError:  # run from a folder of plain files: scripts, accelerate, pytest
    from chunking_tsn import check_chunk_sizes, encode_chunks, padding_values, tag_words, token_limit
    from onnx_tsn import OUTPUTS, TSNOnnxModel
    from tagging_tsn import first_subtokens, group_means, ranges, softmax

LOOK_AHEAD = 16  # batches whose chunks are sorted by length together
CHUNK_CHARACTERS = 300  # length of a full chunk of 50 words in most languages; bounds what is read ahead
_PARAMETERS = ("max_words", "overlap_words", "aggregation", "top_k", "threshold", "return_chunks")


@dataclass(frozen=True)
class Chunks:
    """The chunks of several texts: what the model reads, and what decoding needs.

    Tokens and words of all chunks are concatenated in the order of the chunks.
    """

    texts: list[str]
    owners: np.ndarray  # (chunks,) index of the text that each chunk is from
    borders: np.ndarray  # (chunks, 2) start and end in that text
    token_counts: np.ndarray  # (chunks,)
    word_counts: np.ndarray  # (chunks,)
    inputs: dict[str, np.ndarray]  # (all tokens,) each
    positions: np.ndarray  # (all words,) the token of its chunk that carries each word's tags
    spans: np.ndarray  # (all words, 2) start and end in the text

    @property
    def first_tokens(self) -> np.ndarray:
        """`(chunks,)` where the tokens of each chunk begin."""
        return np.cumsum(self.token_counts) - self.token_counts

    @property
    def first_words(self) -> np.ndarray:
        """`(chunks,)` where the words of each chunk begin."""
        return np.cumsum(self.word_counts) - self.word_counts


class Span(NamedTuple):
    """A topic or an entity."""

    start: int
    end: int
    type: str
    score: float
    sentiments: Optional[np.ndarray]  # (classes,) probabilities


@dataclass(frozen=True)
class TextAnalysis:
    """What the model says of one text, before the caller's options apply."""

    text: str
    topics: list[Span]
    entities: list[Span]
    sentiments: np.ndarray  # (chunks, classes) probabilities
    borders: np.ndarray  # (chunks, 2) start and end


class TSNPipeline(ChunkPipeline):
    """Topics, sentiment and named entities of texts of any length.

    For every span, `text[start:end] == word` in the caller's own string.

    Example:
        ```python
        tsn = pipeline("topic-sentiment-ner", model="org/tsn", trust_remote_code=True)
        tsn("Apple Pay arrived in Colombia on Tuesday. Customers love the new payment method.")
        # {"topics": [{"word": "Apple Pay", "score": 0.80, "start": 0, "end": 9,
        #              "sentiment": "positive", "sentiment_score": 0.93},
        #             {"word": "payment method", "score": 0.51, "start": 65, "end": 79,
        #              "sentiment": "positive", "sentiment_score": 0.80}],
        #  "sentiment": {"label": "positive", "score": 0.92,
        #                "scores": {"negative": 0.02, "neutral": 0.06, "positive": 0.92}},
        #  "entities": [{"entity_group": "MISC", "word": "Apple Pay", "score": 0.66, "start": 0, "end": 9},
        #               {"entity_group": "LOC", "word": "Colombia", "score": 0.94, "start": 21, "end": 29}]}
        ```

    Parameters, of the constructor or of a call:
        max_words (int): Words a chunk holds at most. Default: the configuration's `chunk_words`, 50.
        overlap_words (int): Words that a chunk repeats of the one before as context. Default: 0.
        aggregation (str): The text's sentiment from its chunks'. `"max"` (default): each class has its highest
            probability in any chunk, and the highest wins; `"mean"`: of the mean probability; `"vote"`: each chunk
            votes, scores are shares of the votes, the mean decides a tie.
        top_k (int): The best distinct topics, best first, with a `count` of their mentions and the sentiment of all
            of them, rather than every mention in text order. Phrases are the same if they differ in case and white
            space alone.
        threshold (float): Leaves out topics with a lower score. Default: 0.
        return_chunks (bool): Adds `chunks`, each chunk's `start`, `end` and `sentiment`. Default: False.
        batch_size (int): Chunks of one forward pass, of several texts where possible. Default: 1.
        num_workers (int): 1 cuts and tokenizes in a process of its own. Default: 0.

    A span's score is the mean over its words of the probability of the tag that the decoding chose, at the temperature
    of the configuration, which is fitted so that scores say how often such spans are right. A topic's sentiment is
    read at its own words, so that one sentence may praise the food and blame the service; a model with `cls` pooling
    and no head for it gives that of its chunk. The sentiment of
    a text without a word in it, such as `""`, is `{"label": None, "score": 0.0, "scores": {every class: 0.0}}`.
    """

    def __init__(self, *args, **kwargs):
        _check_batching(**{name: kwargs[name] for name in ("batch_size", "num_workers") if name in kwargs})
        super().__init__(*args, **kwargs)
        if self.tokenizer is None or not self.tokenizer.is_fast:
            raise ValueError("TSNPipeline needs a fast tokenizer, which offsets come from: pass tokenizer=...")
        config = self.model.config
        self._schemes = {"topics": config.topic_scheme(), "entities": config.entity_scheme()}
        self._max_tokens = token_limit(self.tokenizer, config)
        # Optimum's ORTModelForCustomTasks would put all chunks of a batch through one quantization; see TSNOnnxModel.
        is_ort = not isinstance(self.model, torch.nn.Module) and hasattr(self.model, "session")
        self._network = TSNOnnxModel(self.model.session, config) if is_ort else self.model

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, and with this file beside the model's also where it came from a Hub folder."""
        super().save_pretrained(save_directory, **kwargs)
        custom_object_save(self, save_directory)

    def _sanitize_parameters(self, **parameters):
        unknown = sorted(set(parameters) - set(_PARAMETERS))
        if unknown:
            raise ValueError(f"unknown parameter {', '.join(unknown)}; there are {', '.join(_PARAMETERS)}")
        preprocess = {k: parameters[k] for k in ("max_words", "overlap_words") if k in parameters}
        postprocess = {k: parameters[k] for k in _PARAMETERS[2:] if k in parameters}
        sizes = {"max_words": None, "overlap_words": 0, **getattr(self, "_preprocess_params", {}), **preprocess}
        check_chunk_sizes(self._chunk_words(sizes["max_words"]), sizes["overlap_words"])
        if postprocess.get("aggregation", "max") not in ("max", "mean", "vote"):
            raise ValueError(f"aggregation must be 'max', 'mean' or 'vote', not {postprocess['aggregation']!r}")
        top_k, threshold = postprocess.get("top_k"), postprocess.get("threshold", 0.0)
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"top_k must be a whole number >= 1 or None, not {top_k!r}")
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a number from 0 to 1, not {threshold!r}")
        if not isinstance(postprocess.get("return_chunks", False), bool):
            raise ValueError(f"return_chunks must be True or False, not {postprocess['return_chunks']!r}")
        return preprocess, {}, postprocess

    def _chunk_words(self, max_words):
        return self.model.config.chunk_words if max_words is None else max_words

    def __call__(self, inputs, *, num_workers=None, batch_size=None, **parameters):
        """Analyses one text, or many.

        Args:
            inputs: A string gives a dict. A list, tuple, data set column, array or other sequence of strings gives a
                list. A generator or iterator, or a `torch` data set such as `KeyDataset`, gives an iterator that
                reads no more than a bounded number of texts ahead.

        Raises:
            TypeError: an input is not a string; the message says which.
            ValueError: a parameter is out of its range.
        """
        _check_batching(batch_size, num_workers)
        parameters.update(num_workers=num_workers, batch_size=batch_size)
        if isinstance(inputs, str):
            return super().__call__(inputs, **parameters)
        if isinstance(inputs, Dataset):  # one with a length need not raise IndexError at its end
            counted = not isinstance(inputs, IterableDataset)
            texts = (inputs[i] for i in range(len(inputs))) if counted else (text for text in inputs)
            return super().__call__(texts, **parameters)
        if isinstance(inputs, (bytes, Mapping)) or not isinstance(inputs, Iterable):
            raise TypeError(f"TSN analyses a string or several, not {type(inputs).__name__}")
        results = super().__call__((text for text in inputs), **parameters)
        return list(results) if hasattr(inputs, "__len__") else results

    def _forward(self, model_inputs):
        """Model inputs, `(batch, tokens)` each, to the three heads' logits."""
        outputs = self._network(**model_inputs)
        return {name: outputs[name] for name in OUTPUTS}

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        # transformers' own iterator tokenizes chunk by chunk, batches in order of arrival and pads more.
        chunks = batch_size * LOOK_AHEAD if batch_size > 1 else 1  # one at a time: answer each before reading the next
        groups = _TextGroups(inputs, chunks, self.preprocess, preprocess_params)
        if num_workers:
            groups = DataLoader(groups, batch_size=None, num_workers=1, collate_fn=_unchanged)
        for group in groups:
            logits = self._run_model(group, batch_size, forward_params)
            for analysis in self._group_by_text(group, logits, self._decode(group, logits)):
                yield self.postprocess(analysis, **postprocess_params)

    def preprocess(self, inputs: list[str], max_words: Optional[int] = None, overlap_words: int = 0) -> Chunks:
        """Cuts texts into chunks and tokenizes them. Chunks without a word are left out."""
        max_words = self._chunk_words(max_words)
        owners, chunks, encodings = encode_chunks(inputs, self.tokenizer, max_words, overlap_words, self._max_tokens)
        tagged = [tag_words(inputs[owner][chunk.start : chunk.end]) for owner, chunk in zip(owners, chunks)]
        owners = np.array(owners, dtype=np.int64)  # (chunks,)
        borders = np.array(chunks, dtype=np.int64).reshape(-1, 2)  # (chunks, 2)
        starts, ends = borders.T  # (chunks,)
        tokens = np.array([len(encoding) for encoding in encodings], dtype=np.int64)  # (chunks,)
        # All chunks at once, as if they stood in one text with a gap behind each.
        shift = np.concatenate([[0], np.cumsum(ends - starts + 1)])[:-1].astype(np.int64)  # (chunks,)
        spans = _flat(border for pairs in tagged for pair in pairs for border in pair).reshape(-1, 2)
        spans += np.repeat(shift, [len(pairs) for pairs in tagged])[:, None]
        offsets = _flat(chain.from_iterable(chain.from_iterable(e.offsets for e in encodings))).reshape(-1, 2)
        chunk_of = np.repeat(np.arange(len(chunks)), tokens)  # (all tokens,)
        positions, spans = first_subtokens(spans, offsets + shift[chunk_of][:, None])
        chunk_of = chunk_of[positions]  # (all words,)
        words = np.bincount(chunk_of, minlength=len(chunks))  # (chunks,)
        # A chunk without a word (zero-width characters alone, say) has nothing to tag and no sentiment.
        kept = words > 0
        token_kept = np.repeat(kept, tokens)  # (all tokens,)
        fields = {"input_ids": lambda e: e.ids, "token_type_ids": lambda e: e.type_ids}
        return Chunks(
            texts=inputs,
            owners=owners[kept],
            borders=borders[kept],
            token_counts=tokens[kept],
            word_counts=words[kept],
            inputs={
                name: _flat(chain.from_iterable(map(read, encodings)))[token_kept]
                for name, read in fields.items()
                if name in self.tokenizer.model_input_names
            },
            positions=positions - (np.cumsum(tokens) - tokens)[chunk_of],
            spans=spans + (starts - shift)[chunk_of][:, None],
        )

    def _batches(self, chunks, batch_size, shortest=0.75):
        """Yields `(chunk indices, padded inputs)`, the longest chunks first.

        With few chunks, of all lengths, padding would be most of a batch, so none of its chunks is shorter than
        `shortest` of its longest.
        """
        tokens, first = chunks.token_counts, chunks.first_tokens  # (chunks,)
        padding = padding_values(self.tokenizer)
        order = np.argsort(-tokens, kind="stable")
        while len(order):
            fitting = np.searchsorted(-tokens[order], -shortest * tokens[order[0]], side="right")
            batch, order = np.split(order, [min(batch_size, fitting)])
            # To the right whatever the tokenizer's side, so that token positions stay what they were.
            inside = np.arange(tokens[batch[0]]) < tokens[batch][:, None]  # (batch, longest)
            source = ranges(first[batch], tokens[batch])
            padded = {"attention_mask": inside.astype(np.int64)}
            for name, values in chunks.inputs.items():
                padded[name] = np.full(inside.shape, padding[name], dtype=np.int64)  # (batch, longest)
                padded[name][inside] = values[source]
            yield batch, {name: torch.from_numpy(rows) for name, rows in padded.items()}

    def _run_model(self, chunks, batch_size, forward_params):
        """The four outputs of the model, calibrated: `sentiment_logits` `(chunks, classes)`, the others
        `(all words, tags or classes)`."""
        words, first = chunks.word_counts, chunks.first_words  # (chunks,)
        config, count = self.model.config, words.sum()
        shapes = {
            "topic_logits": (count, len(config.topic_labels)),
            "ner_logits": (count, len(config.ner_labels)),
            "sentiment_logits": (len(words), len(config.sentiment_labels)),
            "topic_sentiment_logits": (count, len(config.sentiment_labels)),
        }
        logits = {name: np.empty(shape, dtype=np.float32) for name, shape in shapes.items()}
        unpadded = getattr(self._network, "quantized", False)  # runs each row alone: many rows keep all threads busy
        sizes = (batch_size * LOOK_AHEAD, 0) if unpadded else (batch_size,)
        for batch, inputs in self._batches(chunks, *sizes):
            outputs = self.forward(inputs, **forward_params)
            row = np.repeat(np.arange(len(batch)), words[batch])  # (words of the batch,)
            word = ranges(first[batch], words[batch])  # (words of the batch,)
            for name in logits:
                values = outputs[name].float().numpy()  # (batch, tokens, tags), or (batch, classes)
                if name == "sentiment_logits":
                    logits[name][batch] = values
                else:
                    logits[name][word] = values[row, chunks.positions[word]]
        temperatures = {**config.temperatures, "topic_sentiment": config.temperatures["sentiment"]}
        for task, temperature in temperatures.items():
            logits[f"{task}_logits"] /= temperature  # the best tags stay the best; their scores become probabilities
            if not np.isfinite(logits[f"{task}_logits"]).all():
                raise ValueError(f"the model's {task}_logits are not finite: its weights are damaged, or overflow")
        return logits

    def _decode(self, chunks, logits):
        """The spans of both token heads: `{"topics": [(text index, Span), ...], "entities": ...}`."""
        first, decoded = chunks.first_words, {}
        for head, name in (("topics", "topic_logits"), ("entities", "ner_logits")):
            scheme = self._schemes[head]
            row, begin, end, kind, score = scheme.best_spans(logits[name], chunks.word_counts)
            start = chunks.spans[first[row] + begin, 0]  # (spans,)
            stop = chunks.spans[first[row] + end - 1, 1]  # (spans,)
            sentiments = [None] * len(row)
            if head == "topics":
                inside = ranges(first[row] + begin, end - begin)  # (words of spans,)
                of_words = logits["topic_sentiment_logits"][inside]  # (words of spans, classes)
                of_span = np.repeat(np.arange(len(row)), end - begin)  # (words of spans,)
                sentiments = softmax(group_means(of_words, of_span, len(row)))  # (spans, classes)
            types = [scheme.types[k] for k in kind.tolist()]
            spans = map(Span, start.tolist(), stop.tolist(), types, score.tolist(), sentiments)
            decoded[head] = list(zip(chunks.owners[row].tolist(), spans))
        return decoded

    def _group_by_text(self, chunks, logits, decoded) -> Iterator[TextAnalysis]:
        """One `TextAnalysis` for each text, in order."""
        spans = {head: [[] for _ in chunks.texts] for head in decoded}
        for head, pairs in decoded.items():
            for owner, span in pairs:
                spans[head][owner].append(span)
        next_text = np.searchsorted(chunks.owners, np.arange(1, len(chunks.texts)))
        sentiments = np.split(softmax(logits["sentiment_logits"]), next_text)  # (chunks, classes) each
        borders = np.split(chunks.borders, next_text)  # (chunks, 2) each
        return map(TextAnalysis, chunks.texts, spans["topics"], spans["entities"], sentiments, borders)

    def postprocess(
        self,
        model_outputs: TextAnalysis,
        aggregation: str = "max",
        top_k: Optional[int] = None,
        threshold: float = 0.0,
        return_chunks: bool = False,
    ) -> dict:
        """The caller's dict for one text."""
        labels, text = self.model.config.sentiment_labels, model_outputs.text
        topic_spans = [span for span in _without_overlaps(model_outputs.topics) if span.score >= threshold]
        topics = [{**_place(span, text), **_best_class(span.sentiments, labels)} for span in topic_spans]
        if top_k:
            topics = _distinct(topics, [span.sentiments for span in topic_spans], labels, top_k)
        entities = [
            {"entity_group": span.type, **_place(span, text)} for span in _without_overlaps(model_outputs.entities)
        ]
        sentiment = _aggregate(model_outputs.sentiments, labels, aggregation)
        result = {"topics": topics, "sentiment": sentiment, "entities": entities}
        if return_chunks:
            result["chunks"] = [
                {"start": start, "end": end, "sentiment": _aggregate(chunk[None], labels, aggregation)}
                for (start, end), chunk in zip(model_outputs.borders.tolist(), model_outputs.sentiments)
            ]
        return result


def _check_batching(batch_size=None, num_workers=None):
    for name, value, low in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
            raise ValueError(f"{name} must be a whole number >= {low}, not {value!r}")


class _TextGroups(IterableDataset):
    """Reads texts in groups that make a bounded number of chunks, or are one text, and cuts each group."""

    def __init__(self, texts, chunks, cut, parameters):
        self.texts, self.chunks, self.cut, self.parameters = texts, chunks, cut, parameters

    def __iter__(self):
        group, characters = [], 0
        for i, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise TypeError(f"TSN analyses strings; input {i} is {type(text).__name__}: {text!r:.80}")
            group.append(text)
            characters += len(text)
            if len(group) >= self.chunks or characters >= self.chunks * CHUNK_CHARACTERS:
                yield self.cut(group, **self.parameters)
                group, characters = [], 0
        if group:
            yield self.cut(group, **self.parameters)


def _unchanged(chunks):
    return chunks  # the default would make tensors of arrays


def _flat(numbers):
    return np.fromiter(numbers, dtype=np.int64)


def _without_overlaps(spans):
    """Spans of all chunks in text order; of those that overlap, where chunks repeat words, the longest is kept."""
    kept, last_end = [], -1
    for span in sorted(spans, key=lambda s: (s.start, -s.end, -s.score)):
        if span.start >= last_end:
            kept.append(span)
            last_end = span.end
        elif span.end - span.start > kept[-1].end - kept[-1].start:
            kept[-1] = span
            last_end = span.end
    return kept


def _place(span, text):
    return {"word": text[span.start : span.end], "score": span.score, "start": span.start, "end": span.end}


def _distinct(topics, probabilities, labels, top_k):
    """The `top_k` best phrases, each with the place of its best mention, the sentiment of all, by the mean of their
    `probabilities`, `(classes,)` each, and their count."""
    best, mentions = {}, {}
    for topic, shares in zip(topics, probabilities):
        phrase = " ".join(topic["word"].casefold().split())
        mentions.setdefault(phrase, []).append(shares)
        if phrase not in best or topic["score"] > best[phrase]["score"]:
            best[phrase] = topic
    ranked = sorted(best, key=lambda phrase: (-best[phrase]["score"], best[phrase]["start"]))[:top_k]
    return [
        {**best[p], **_best_class(np.mean(mentions[p], axis=0), labels), "count": len(mentions[p])} for p in ranked
    ]


def _best_class(probabilities, labels):
    best = probabilities.argmax()
    return {"sentiment": labels[best], "sentiment_score": float(probabilities[best])}


def _aggregate(probabilities, labels, aggregation):
    """The sentiment of a text from the probabilities of its chunks, `(chunks, classes)`."""
    if not len(probabilities):
        return {"label": None, "score": 0.0, "scores": dict.fromkeys(labels, 0.0)}
    if aggregation == "vote":
        scores = np.bincount(probabilities.argmax(1), minlength=len(labels)) / len(probabilities)  # (classes,)
        best = np.lexsort((probabilities.mean(0), scores))[-1]
    else:
        scores = probabilities.mean(0) if aggregation == "mean" else probabilities.max(0)  # (classes,)
        best = scores.argmax()
    scores = scores.tolist()
    return {"label": labels[best], "score": scores[best], "scores": dict(zip(labels, scores))}
