"""The pipeline: text in; topics, sentiment and entities with their offsets out."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers.dynamic_module_utils import custom_object_save
from transformers.pipelines.base import ChunkPipeline

try:
    from .chunking_tsn import (
        check_chunk_sizes,
        check_options,
        check_whole_number,
        encode_chunks,
        padding_values,
        tag_words,
        token_limit,
    )
    from .graph_tsn import OUTPUTS, batches_by_length
    from .onnx_tsn import TSNOnnxModel
    from .tagging_tsn import Chunks, Span, TextAnalysis, group_means, ranges, softmax, without_overlaps
except ImportError:  # run from a folder of plain files: scripts, accelerate, pytest
    from chunking_tsn import (
        check_chunk_sizes,
        check_options,
        check_whole_number,
        encode_chunks,
        padding_values,
        tag_words,
        token_limit,
    )
    from graph_tsn import OUTPUTS, batches_by_length
    from onnx_tsn import TSNOnnxModel
    from tagging_tsn import Chunks, Span, TextAnalysis, group_means, ranges, softmax, without_overlaps
if __package__:  # transformers does not tell the package of its modules, where pickling by name looks for them
    setattr(sys.modules[__package__], __name__.rpartition(".")[2], sys.modules[__name__])

LOOK_AHEAD = 16  # batches whose chunks are sorted by length together
CHUNK_CHARACTERS = 300  # length of a full chunk of 50 words in most languages; bounds what is read ahead
_PREPROCESS = ("max_words", "overlap_words")
_POSTPROCESS = ("aggregation", "top_k", "threshold", "entity_threshold", "return_chunks")
_PARAMETERS = (*_PREPROCESS, *_POSTPROCESS)
_MADE_IN_USE = ("_ort_runner", "_scheme_config", "_schemes")


class TSNPipeline(ChunkPipeline):
    """Topics, sentiment and named entities of texts of any length.

    For every span, `text[start:end] == word` in the caller's own string.

    Example:
        ```python
        tsn = pipeline("topic-sentiment-ner", model="org/tsn", trust_remote_code=True)
        tsn("The European Central Bank raised interest rates, President Christine Lagarde said in Frankfurt.")
        # {"topics": [{"word": "European Central Bank", "score": ..., "start": 4, "end": 25, "sentiment": "neutral",
        #              "sentiment_score": ...}],
        #  "sentiment": {"label": "neutral", "score": ..., "scores": {"negative": ..., "neutral": ..., ...}},
        #  "entities": [{"entity_group": "ORG", "word": "European Central Bank", "score": ..., "start": 4, "end": 25,
        #                "sentiment": "neutral", "sentiment_score": ...}, ...]}
        ```

    Parameters of the constructor or of a call:
        max_words (int): Most words in a chunk. Default: the configuration's `chunk_words`, 50.
        overlap_words (int): Words of the previous chunk that each chunk repeats as context. Default: 0.
        aggregation (str): How the chunks' sentiments become the text's. `"max"` (default) scores each class by its
            highest probability in any chunk, `"mean"` by its mean probability; with `"vote"` each chunk votes for a
            class, scores are shares of the votes, and the mean decides a tie. The class with the highest score wins.
        top_k (int): Return only this many distinct topics, best first, instead of every mention in text order. Each
            has a `count` of its mentions and the sentiment over all of them. Phrases that differ only in case or
            white space are the same. Default: None.
        threshold (float): Leave out topics with a lower score. Default: 0.
        entity_threshold (float): Leave out entities with a lower score. Default: 0.
        return_chunks (bool): Add `chunks`, with the `start`, `end` and `sentiment` of each chunk. Default: False.
        batch_size (int): Chunks per forward pass, from several texts where possible. Default: 1.
        num_workers (int): 1 cuts and tokenizes in a process of its own. Default: 0.

    A span's score is the mean probability of the tags chosen for its words, calibrated by the configuration's
    temperatures so that it says how often such spans are right. The sentiment of a topic or an entity is read at its
    own words, so one sentence may praise the food and blame the service; a model with `cls` pooling and no head for it
    gives the sentiment of the chunk instead. A text without a word, such as `""`, has the sentiment
    `{"label": None, "score": 0.0, "scores": {every class: 0.0}}`.
    """

    # What `pipeline()` loads. Looking for a processor, it would load the tokenizer once more.
    _load_tokenizer: Any = True
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False

    def __init__(self, *args, **kwargs):
        _check_batching(**{name: kwargs[name] for name in ("batch_size", "num_workers") if name in kwargs})
        super().__init__(*args, **kwargs)
        if self.tokenizer is None or not self.tokenizer.is_fast:
            raise ValueError("TSNPipeline needs a fast tokenizer, which gives offsets: pass tokenizer=...")
        self._runner()

    # `pipe.model` may be set at any time: what is made from a model is kept only as long as the pipeline holds it.

    def _runner(self):
        """The model in the form that runs it."""
        if isinstance(self.model, torch.nn.Module) or not hasattr(self.model, "session"):
            return self.model
        # Optimum's ORTModelForCustomTasks would put all chunks of a batch through one quantization; see TSNOnnxModel.
        session, runner = self.model.session, getattr(self, "_ort_runner", None)
        if runner is None or runner.session is not session:
            self._ort_runner = TSNOnnxModel(session, self.model.config)
        return self._ort_runner

    def _tag_schemes(self):
        """The schemes of the model's topic and entity tags."""
        config = self.model.config
        if getattr(self, "_scheme_config", None) is not config:
            self._scheme_config = config
            self._schemes = {"topics": config.topic_scheme(), "entities": config.entity_scheme()}
        return self._schemes

    def __getstate__(self):
        # `datasets` caches by a hash of this, which must not change with use.
        state = {name: value for name, value in self.__dict__.items() if name not in _MADE_IN_USE}
        return {**state, "call_count": 0}

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, and also copies this file when the model came from a Hub folder."""
        super().save_pretrained(save_directory, **kwargs)
        custom_object_save(self, save_directory)

    def _sanitize_parameters(self, **parameters):
        unknown = sorted(set(parameters) - set(_PARAMETERS))
        if unknown:
            raise ValueError(f"unknown parameter {', '.join(unknown)}; there are {', '.join(_PARAMETERS)}")
        preprocess = {k: parameters[k] for k in _PREPROCESS if k in parameters}
        postprocess = {k: parameters[k] for k in _POSTPROCESS if k in parameters}
        sizes = {"max_words": None, "overlap_words": 0, **getattr(self, "_preprocess_params", {}), **preprocess}
        check_chunk_sizes(self._chunk_words(sizes["max_words"]), sizes["overlap_words"])
        check_options(**postprocess)
        return preprocess, {}, postprocess

    def _chunk_words(self, max_words):
        return self.model.config.chunk_words if max_words is None else max_words

    def __call__(  # type: ignore[override]
        self, inputs: Any, *, num_workers: Optional[int] = None, batch_size: Optional[int] = None, **parameters
    ) -> dict | list[dict] | Iterator[dict]:
        """Analyses one text, or many.

        Args:
            inputs: A string gives a dict. A list, tuple, array, column of a data frame or other sequence of strings
                gives a list. A generator, an iterator or a `torch` data set such as `KeyDataset` gives an iterator
                that reads only a bounded number of texts ahead.

        Raises:
            TypeError: an input is not a string, and the message says which; or `inputs` is a whole data frame,
                table, data set or dict instead of one column of it.
            ValueError: a parameter is out of range.
        """
        _check_batching(batch_size, num_workers)
        parameters.update(num_workers=num_workers, batch_size=batch_size)
        if isinstance(inputs, str):
            return super().__call__(inputs, **parameters)
        results = super().__call__(_each_input(inputs), **parameters)
        return list(results) if hasattr(inputs, "__len__") and not isinstance(inputs, Dataset) else results

    def _forward(self, model_inputs):
        """Model inputs, `(batch, tokens)` each, to logits."""
        outputs = self._runner()(**model_inputs)
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

    def preprocess(self, inputs: list[str], max_words: Optional[int] = None, overlap_words: int = 0) -> Chunks:  # type: ignore[override]
        """Cuts texts into chunks and tokenizes them. Chunks without a word are left out."""
        tokenizer: Any = self.tokenizer
        max_words, limit = self._chunk_words(max_words), token_limit(tokenizer, self.model.config)
        owners, chunks, encodings = encode_chunks(inputs, tokenizer, max_words, overlap_words, limit)
        words = [tag_words(inputs[owner][chunk.start : chunk.end]) for owner, chunk in zip(owners, chunks)]
        return Chunks.aligned(inputs, owners, chunks, words, encodings, tokenizer.model_input_names)

    def _batches(self, chunks, batch_size, shortest=0.75):
        """Yields `(chunk indices, padded inputs)`; see `batches_by_length`."""
        tokens, first = chunks.token_counts, chunks.first_tokens  # (chunks,)
        padding = padding_values(self.tokenizer)
        for batch in batches_by_length(tokens, batch_size, shortest=shortest):
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
        sizes = (batch_size * LOOK_AHEAD, 0) if getattr(self._runner(), "forms_batches", False) else (batch_size,)
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
            scheme = self._tag_schemes()[head]
            row, begin, end, kind, score = scheme.best_spans(logits[name], chunks.word_counts)
            start = chunks.spans[first[row] + begin, 0]  # (spans,)
            stop = chunks.spans[first[row] + end - 1, 1]  # (spans,)
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
        spans: dict[str, list[list[Span]]] = {head: [[] for _ in chunks.texts] for head in decoded}
        for head, pairs in decoded.items():
            for owner, span in pairs:
                spans[head][owner].append(span)
        next_text = np.searchsorted(chunks.owners, np.arange(1, len(chunks.texts)))
        sentiments = np.split(softmax(logits["sentiment_logits"]), next_text)  # (chunks, classes) each
        borders = np.split(chunks.borders, next_text)  # (chunks, 2) each
        return map(TextAnalysis, chunks.texts, spans["topics"], spans["entities"], sentiments, borders)

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: TextAnalysis,
        aggregation: str = "max",
        top_k: Optional[int] = None,
        threshold: float = 0.0,
        entity_threshold: float = 0.0,
        return_chunks: bool = False,
    ) -> dict:
        """The caller's dict for one text."""
        labels, text = self.model.config.sentiment_labels, model_outputs.text
        topic_spans = [span for span in without_overlaps(model_outputs.topics) if span.score >= threshold]
        topics = [_span_dict(span, text, labels) for span in topic_spans]
        if top_k:
            topics = _distinct(topics, [span.sentiments for span in topic_spans], labels, top_k)
        entities = [
            {"entity_group": span.type, **_span_dict(span, text, labels)}
            for span in without_overlaps(model_outputs.entities)
            if span.score >= entity_threshold
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
        if value is not None:
            check_whole_number(name, value, low)


def _each_input(inputs):
    """A generator of the texts, which transformers takes for several inputs."""
    hint = _column_hint(inputs)
    if hint or isinstance(inputs, (bytes, bytearray)) or not isinstance(inputs, (Iterable, Dataset)):
        raise TypeError(f"TSN analyses a string or several, not {type(inputs).__name__}{hint}")
    if isinstance(inputs, Dataset) and not isinstance(inputs, IterableDataset):
        return (inputs[i] for i in range(len(inputs)))  # need not raise IndexError at its end
    if hasattr(inputs, "to_pylist"):  # Arrow arrays, whose items are no strings
        inputs = inputs.to_pylist()
    return (text for text in inputs)


def _column_hint(value):
    """What to pass instead of a value with named columns, such as a data frame; `""` for any other value."""
    kind, names = type(value).__name__, None
    if isinstance(value, Mapping):
        names = list(value)
    elif hasattr(type(value), "column_names"):  # of the type: a pandas Series may have a row with that name
        names = value.column_names  # datasets, pyarrow; None where a stream does not know them
    elif hasattr(type(value), "columns"):
        names = value.columns  # pandas, polars, PySpark
    elif getattr(value, "dtype", None) is not None:
        names = getattr(value.dtype, "names", None)  # numpy's structured arrays
    if names is None:
        return ""
    names = [str(name) for name in names]
    column = names[0] if names and "text" not in names else "text"
    variable = "df" if "Frame" in kind else "dataset" if "Dataset" in kind else kind.lower()
    return f': pass its texts alone, such as {variable}["{column:.40}"]; it has {", ".join(names):.200}'


class _TextGroups(IterableDataset):
    """Reads texts in groups that make a bounded number of chunks, or are one text, and cuts each group."""

    def __init__(self, texts, chunks, cut, parameters):
        self.texts, self.chunks, self.cut, self.parameters = texts, chunks, cut, parameters

    def __iter__(self):
        group, characters = [], 0
        for i, text in enumerate(self.texts):
            if not isinstance(text, str):
                kind, hint = type(text).__name__, _column_hint(text)
                raise TypeError(f"TSN analyses strings; input {i} is {kind}{hint or f': {text!r:.80}'}")
            group.append(text)
            characters += len(text)
            if len(group) >= self.chunks or characters >= self.chunks * CHUNK_CHARACTERS:
                yield self.cut(group, **self.parameters)
                group, characters = [], 0
        if group:
            yield self.cut(group, **self.parameters)


def _unchanged(chunks):
    return chunks  # the default would make tensors of arrays


def _span_dict(span, text, labels):
    place = {"word": text[span.start : span.end], "score": span.score, "start": span.start, "end": span.end}
    return {**place, **_best_class(span.sentiments, labels)}


def _distinct(topics, probabilities, labels, top_k):
    """The `top_k` best phrases, each with the place of its best mention, and the sentiment and count of all mentions.

    The sentiment is that of the mean of the mentions' `probabilities`, `(classes,)` each.
    """
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
