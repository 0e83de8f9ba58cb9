"""The pipeline: text in; topics, sentiment and entities with their offsets out."""

from collections.abc import Iterable, Mapping
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers.dynamic_module_utils import custom_object_save
from transformers.pipelines.base import ChunkPipeline

try:
    from .chunking_tsn import check_chunk_sizes, encode_chunks, pad_chunks, tag_words, token_limit
    from .tagging_tsn import first_subtokens
except ImportError:  # run from a folder of plain files: scripts, accelerate, pytest
    from chunking_tsn import check_chunk_sizes, encode_chunks, pad_chunks, tag_words, token_limit
    from tagging_tsn import first_subtokens

LOOK_AHEAD = 16  # batches' worth of texts that are sorted by length together
_PARAMETERS = ("max_words", "overlap_words", "aggregation", "top_k", "threshold")


class TSNPipeline(ChunkPipeline):
    """Topics, sentiment and named entities of texts of any length.

    For every span, `text[start:end] == word` in the caller's own string.

    Example:
        ```python
        tsn = pipeline("topic-sentiment-ner", model="org/tsn", trust_remote_code=True)
        tsn("The battery life of the new laptop is superb, but the customer service of Acme in Madrid was slow "
            "and rude.")
        # {"topics": [{"word": "battery life", "score": 0.97, "start": 4, "end": 16},
        #             {"word": "customer service", "score": 0.86, "start": 54, "end": 70}],
        #  "sentiment": {"label": "negative", "score": 0.92,
        #                "scores": {"negative": 0.92, "neutral": 0.05, "positive": 0.03}},
        #  "entities": [{"entity_group": "ORG", "word": "Acme", "score": 0.66, "start": 74, "end": 78},
        #               {"entity_group": "LOC", "word": "Madrid", "score": 0.94, "start": 82, "end": 88}]}
        ```

    Parameters, of the constructor or of a call:
        max_words (int): Words a chunk holds at most. Default: the configuration's `chunk_words`, 50.
        overlap_words (int): Words that a chunk repeats of the one before as context. Default: 0.
        aggregation (str): The text's sentiment from its chunks'. `"max"` (default): each class has its highest
            probability in any chunk, and the highest wins; `"mean"`: of the mean probability; `"vote"`: each chunk
            votes, scores are shares of the votes, the mean decides a tie.
        top_k (int): The best distinct topics, best first, with a `count` of their mentions, rather than every
            mention in text order. Phrases are the same if they differ in case and white space alone.
        threshold (float): Leaves out topics with a lower score. Default: 0.
        batch_size (int): Chunks of one forward pass, of several texts where possible. Default: 1.
        num_workers (int): 1 cuts and tokenizes in a process of its own. Default: 0.

    A span's score is the mean over its words of the probability of the tag that the decoding chose. The sentiment of
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

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, and with this file beside the model's also where it came from a Hub folder."""
        super().save_pretrained(save_directory, **kwargs)
        custom_object_save(self, save_directory)

    def _sanitize_parameters(self, **parameters):
        unknown = sorted(set(parameters) - set(_PARAMETERS))
        if unknown:
            raise ValueError(f"unknown parameter {', '.join(unknown)}; there are {', '.join(_PARAMETERS)}")
        preprocess = {k: parameters[k] for k in ("max_words", "overlap_words") if k in parameters}
        postprocess = {k: parameters[k] for k in ("aggregation", "top_k", "threshold") if k in parameters}
        sizes = {"max_words": None, "overlap_words": 0, **getattr(self, "_preprocess_params", {}), **preprocess}
        check_chunk_sizes(self._words(sizes["max_words"]), sizes["overlap_words"])
        if postprocess.get("aggregation", "max") not in ("max", "mean", "vote"):
            raise ValueError(f"aggregation must be 'max', 'mean' or 'vote', not {postprocess['aggregation']!r}")
        top_k, threshold = postprocess.get("top_k"), postprocess.get("threshold", 0.0)
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"top_k must be a whole number >= 1 or None, not {top_k!r}")
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a number from 0 to 1, not {threshold!r}")
        return preprocess, {}, postprocess

    def _words(self, max_words):
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
        outputs = self.model(**model_inputs)
        return {name: outputs[name] for name in ("topic_logits", "ner_logits", "sentiment_logits")}

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        # transformers' own iterator tokenizes chunk by chunk, batches in order of arrival and pads what it must.
        size = batch_size * LOOK_AHEAD if batch_size > 1 else 1  # one at a time: answer each before reading the next
        groups = _Groups(inputs, size, self.preprocess, preprocess_params)
        if num_workers:
            groups = DataLoader(groups, batch_size=None, num_workers=1)
        for cut in groups:
            found = self._analyse(cut, batch_size, forward_params)
            for i, text in enumerate(cut["texts"]):
                yield self.postprocess(found, text=text, index=i, **postprocess_params)

    def preprocess(self, inputs, max_words=None, overlap_words=0):
        """A list of texts to tokenized chunks, with what decoding needs.

        Returns:
            dict: `texts`; and for each chunk its `owners` (index of its text), `inputs` (a dict of lists of token
            ids), `positions` (of the tokens that carry tags) and `spans` (their start and end in the text).
        """
        words, limit = self._words(max_words), self._max_tokens
        owners, chunks, encoding = encode_chunks(inputs, self.tokenizer, words, overlap_words, limit)
        names = [name for name in self.tokenizer.model_input_names if name in encoding]
        cut = {"texts": inputs, "owners": owners, "inputs": [], "positions": [], "spans": []}
        for k, (owner, chunk) in enumerate(zip(owners, chunks)):
            tokens = np.array(encoding["offset_mapping"][k])  # (tokens, 2)
            positions, spans = first_subtokens(tag_words(inputs[owner][chunk.start : chunk.end]), tokens)
            cut["positions"].append(positions)
            cut["spans"].append(spans + chunk.start)
            cut["inputs"].append({name: encoding[name][k] for name in names})
        return cut

    def _batches(self, cut, batch_size):
        """Yields `(chunk indices, padded inputs)`, chunks of similar length together."""
        # A chunk without a word (zero-width characters alone, say) has nothing to tag and no sentiment.
        wordy = [k for k, positions in enumerate(cut["positions"]) if len(positions)]
        order = sorted(wordy, key=lambda k: -len(cut["inputs"][k]["input_ids"]))
        for i in range(0, len(order), batch_size):
            batch = order[i : i + batch_size]
            padded = pad_chunks([cut["inputs"][k] for k in batch], self.tokenizer)
            yield batch, {name: torch.tensor(rows) for name, rows in padded.items()}

    def _analyse(self, cut, batch_size, forward_params):
        """Runs the model over all chunks and decodes them.

        Returns:
            dict: `topics` and `entities`, for each text a list of `(start, end, type, score)`; and `sentiment`, for
            each text a list of `(classes,)` probabilities, an entry a chunk in order.
        """
        found = {name: [[] for _ in cut["texts"]] for name in (*self._schemes, "sentiment")}
        sentiment = {}
        for batch, inputs in self._batches(cut, batch_size):
            logits = self.forward(inputs, **forward_params)
            for head, name in (("topics", "topic_logits"), ("entities", "ner_logits")):
                self._decode(found[head], self._schemes[head], _softmax(logits[name]), batch, cut)
            for k, probabilities in zip(batch, _softmax(logits["sentiment_logits"])):
                sentiment[k] = probabilities
        for k in sorted(sentiment):
            found["sentiment"][cut["owners"][k]].append(sentiment[k])
        return found

    def _decode(self, found, scheme, probabilities, batch, cut):
        """Adds the spans of a batch to `found`; `probabilities` is `(batch, tokens, tags)`."""
        positions = [cut["positions"][k] for k in batch]
        lengths = np.array([len(p) for p in positions])  # (batch,)
        index = np.zeros((len(batch), lengths.max()), dtype=np.int64)  # (batch, words)
        inside = np.arange(index.shape[1]) < lengths[:, None]  # (batch, words)
        index[inside] = np.concatenate(positions)
        words = np.take_along_axis(probabilities, index[:, :, None], 1)  # (batch, words, tags)
        tags = scheme.viterbi(np.log(words + 1e-30), lengths)  # (batch, words)
        chosen = np.take_along_axis(words, tags[:, :, None], 2)[:, :, 0]  # (batch, words)
        total = np.hstack([np.zeros((len(batch), 1)), chosen.cumsum(1, dtype=np.float64)])  # (batch, words + 1)
        rows, firsts, ends, kinds = scheme.decode(tags)
        scores = (total[rows, ends] - total[rows, firsts]) / (ends - firsts)  # (spans,)
        scores = scores.astype(np.float32)  # what the model computes in: phrases that score the same stay equal
        for row, first, end, kind, score in zip(*(a.tolist() for a in (rows, firsts, ends, kinds, scores))):
            k = batch[row]
            span = (int(cut["spans"][k][first, 0]), int(cut["spans"][k][end - 1, 1]), scheme.types[kind], score)
            found[cut["owners"][k]].append(span)

    def postprocess(self, model_outputs, text, index=0, aggregation="max", top_k=None, threshold=0.0):
        """What `_analyse` found in the text at `index`, as the caller's dict."""
        topics = [
            {"word": text[start:end], "score": score, "start": start, "end": end}
            for start, end, _, score in _merge(model_outputs["topics"][index])
            if score >= threshold
        ]
        entities = [
            {"entity_group": kind, "word": text[start:end], "score": score, "start": start, "end": end}
            for start, end, kind, score in _merge(model_outputs["entities"][index])
        ]
        labels = self.model.config.sentiment_labels
        sentiment = _aggregate(model_outputs["sentiment"][index], labels, aggregation)
        return {"topics": _distinct(topics, top_k) if top_k else topics, "sentiment": sentiment, "entities": entities}


def _check_batching(batch_size=None, num_workers=None):
    for name, value, low in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
            raise ValueError(f"{name} must be a whole number >= {low}, not {value!r}")


class _Groups(IterableDataset):
    """Reads texts in groups of bounded size and cuts each group."""

    def __init__(self, texts, size, cut, parameters):
        self.texts, self.size, self.cut, self.parameters = texts, size, cut, parameters

    def __iter__(self):
        texts = enumerate(self.texts)
        while group := list(islice(texts, self.size)):
            for i, text in group:
                if not isinstance(text, str):
                    raise TypeError(f"TSN analyses strings; input {i} is {type(text).__name__}: {text!r:.80}")
            yield self.cut([text for _, text in group], **self.parameters)


def _softmax(logits):
    return torch.softmax(torch.as_tensor(logits).float(), -1).numpy()


def _merge(spans):
    """Spans of all chunks in text order; of those that overlap, where chunks repeat words, the longest is kept."""
    kept, ends = [], -1
    for span in sorted(spans, key=lambda s: (s[0], -s[1], -s[3])):
        if span[0] >= ends:
            kept.append(span)
            ends = span[1]
        elif span[1] - span[0] > kept[-1][1] - kept[-1][0]:
            kept[-1] = span
            ends = span[1]
    return kept


def _distinct(topics, top_k):
    """The `top_k` best phrases, each with the place of its best mention and the count of all."""
    best, counts = {}, {}
    for topic in topics:
        phrase = " ".join(topic["word"].casefold().split())
        counts[phrase] = counts.get(phrase, 0) + 1
        if phrase not in best or topic["score"] > best[phrase]["score"]:
            best[phrase] = topic
    ranked = sorted(best, key=lambda phrase: (-best[phrase]["score"], best[phrase]["start"]))
    return [{**best[phrase], "count": counts[phrase]} for phrase in ranked[:top_k]]


def _aggregate(chunks, labels, aggregation):
    """The sentiment of a text from the probabilities of its chunks, `(classes,)` each."""
    if not chunks:
        return {"label": None, "score": 0.0, "scores": dict.fromkeys(labels, 0.0)}
    probabilities = np.stack(chunks)  # (chunks, classes)
    mean = probabilities.mean(0)  # (classes,)
    if aggregation == "vote":
        scores = np.bincount(probabilities.argmax(1), minlength=len(labels)) / len(chunks)  # (classes,)
        best = np.lexsort((mean, scores))[-1]
    else:
        scores = mean if aggregation == "mean" else probabilities.max(0)
        best = scores.argmax()
    return {
        "label": labels[best],
        "score": float(scores[best]),
        "scores": dict(zip(labels, map(float, scores))),
    }
