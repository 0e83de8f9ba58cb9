"""What a worker process does: batches of texts and pieces in, the JSON of their answers out."""

import json
import os
import signal
from types import MethodType
from typing import Any

import numpy as np

from tagging_tsn import TextAnalysis
from tsn.loading import load
from tsn.serving.batching import Failure

WARM_UP = "The model answers this text before any other."
BATCH_SIZE = 32  # chunks per forward pass
_SPANS = ("topics", "entities")
ENGINES = ("onnx", "openvino")  # the first one of which the model has an int8 file; unlike score.py's


def load_analyst(model: str, openvino_file: str | None) -> "Analyst":
    """Loads the pipeline in a process of its own, which leaves signals to the one that started it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a core for each process
    return Analyst(load_pipeline(model, openvino_file))


def load_pipeline(model: str, openvino_file: str | None = None) -> Any:
    """The `TSNPipeline` of a worker, on one thread; see `ENGINES`."""
    return load(model, "auto", 1, "cpu", openvino_file, engines=ENGINES)


def analyse(analyst: "Analyst", *messages: tuple) -> list:
    """The replies to the messages of a batch, each of which is a `Failure` on its own."""
    return analyst.analyse(messages)


def about(analyst: "Analyst") -> dict:
    """Answers a text; returns what the server has to know of the model."""
    [reply] = analyst.analyse([("text", WARM_UP, {"max_words": 50, "overlap_words": 0}, 0, "")])
    if isinstance(reply, Failure):
        raise ValueError(reply.message)
    return {"chunk_words": analyst.pipe.model.config.chunk_words}


class Analyst:
    """A pipeline that analyses texts of different callers together and shapes each answer by its own parameters.

    Args:
        pipe: A `TSNPipeline`.
    """

    def __init__(self, pipe):
        self.pipe = pipe
        self._shape = MethodType(type(pipe).postprocess, pipe)
        pipe.postprocess = lambda analysis, **_: analysis  # what the model says, before any caller's options

    def analyse(self, messages) -> list:
        """Replies to `Task.message()`s: JSON in ASCII, or what `"join"` takes of a piece, or a `Failure`."""
        replies: list = [None] * len(messages)
        groups: dict[tuple, list[int]] = {}
        for i, (kind, _, parameters, *_) in enumerate(messages):
            overlap = parameters["overlap_words"] if kind == "text" else 0
            groups.setdefault((kind == "join", parameters["max_words"], overlap), []).append(i)
        for (join, max_words, overlap), places in groups.items():
            analyses = [None] * len(places)
            if not join:
                analyses = self._run([messages[i][1] for i in places], max_words, overlap)
            for i, analysis in zip(places, analyses):
                replies[i] = (
                    analysis if isinstance(analysis, Failure) else _guarded(self._reply, analysis, messages[i])
                )
        return replies

    def _run(self, texts, max_words, overlap):
        options = {"batch_size": BATCH_SIZE, "max_words": max_words, "overlap_words": overlap}
        try:
            return self.pipe(texts, **options)
        except Exception:  # one text must not fail the others
            return [_guarded(lambda text: self.pipe([text], **options)[0], text) for text in texts]

    def _reply(self, analysis, message):
        kind, content, parameters, start, text = message
        parameters = {name: value for name, value in parameters.items() if name not in ("max_words", "overlap_words")}
        if kind == "text":
            return json.dumps(self._shape(analysis, **parameters)).encode("ascii")
        if kind == "join":
            return self._join(content, text, parameters)
        if message[2]["overlap_words"] or parameters.get("top_k"):
            return _moved(analysis, start)  # which spans stay is known only when all are there
        return self._part(analysis, start, parameters)

    def _part(self, analysis, start, parameters):
        """The JSON of a piece's spans and chunks as they stand in the whole text, and its chunks' sentiments."""
        result = self._shape(analysis, **parameters)
        for name in (*_SPANS, "chunks"):
            for place in result.get(name, ()):
                place["start"] += start
                place["end"] += start
        return {name: json.dumps(values)[1:-1] for name, values in result.items() if name != "sentiment"} | {
            "sentiments": analysis.sentiments
        }

    def _join(self, parts, text, parameters):
        """The JSON of a document: it is put together of text that each piece gave, as making it takes long."""
        if isinstance(parts[0] if parts else None, TextAnalysis):
            spans = [[span for part in parts for span in getattr(part, name)] for name in _SPANS]
            sentiments = np.concatenate([part.sentiments for part in parts])  # (chunks, classes)
            borders = np.concatenate([part.borders for part in parts])  # (chunks, 2)
            return json.dumps(self._shape(TextAnalysis(text, *spans, sentiments, borders), **parameters)).encode()
        classes = len(self.pipe.model.config.sentiment_labels)
        sentiments = np.concatenate([np.zeros((0, classes)), *(part["sentiments"] for part in parts)])
        analysis = TextAnalysis("", [], [], sentiments.astype(np.float32), np.zeros((len(sentiments), 2), dtype=int))
        result = self._shape(analysis, **parameters | {"return_chunks": False})
        pieces = {"topics": None, "sentiment": json.dumps(result["sentiment"]), "entities": None}
        if parameters.get("return_chunks"):
            pieces["chunks"] = None
        for name in [name for name, content in pieces.items() if content is None]:
            pieces[name] = f"[{', '.join(part[name] for part in parts if part[name])}]"
        return ("{" + ", ".join(f'"{name}": {content}' for name, content in pieces.items()) + "}").encode("ascii")


def _moved(analysis, start):
    """A piece's analysis with the places that it has in the whole text."""
    spans = [
        [span._replace(start=span.start + start, end=span.end + start) for span in getattr(analysis, name)]
        for name in _SPANS
    ]
    return TextAnalysis("", *spans, analysis.sentiments, analysis.borders + start)


def _guarded(function, *arguments):
    try:
        return function(*arguments)
    except ValueError as error:  # such as a character of more tokens than the model takes
        return Failure(422, str(error))
    except Exception as error:
        return Failure(500, f"the text could not be analysed ({type(error).__name__})")
