"""What `/docs` and `/openapi.json` say of the routes, with examples."""

from typing import Any

from handler import MAX_BATCH_SIZE
from tsn.serving.requests import MAX_WORDS

VERSION = "1"  # of the routes and their answers
TEXT = "The food at Luigi's was amazing but the service was painfully slow and the waiter rude."
_SENTIMENT = {"type": "string", "enum": ["negative", "neutral", "positive"]}
_SCORE = {"type": "number", "minimum": 0, "maximum": 1}
_PLACE = {"word": {"type": "string"}, "score": _SCORE, "start": {"type": "integer"}, "end": {"type": "integer"}}
_OF_SPAN = {"sentiment": {"type": "string"}, "sentiment_score": _SCORE}


def _object(properties, optional=()):
    return {"type": "object", "properties": properties, "required": [n for n in properties if n not in optional]}


_OF_TEXT = _object(
    {
        "label": {"type": ["string", "null"]},
        "score": _SCORE,
        "scores": {"type": "object", "additionalProperties": _SCORE},
    }
)
_TOPIC = _object({**_PLACE, **_OF_SPAN, "count": {"type": "integer", "minimum": 1}}, optional=["count"])
_ENTITY = _object({"entity_group": {"type": "string"}, **_PLACE, **_OF_SPAN})
_CHUNK = _object({"start": {"type": "integer"}, "end": {"type": "integer"}, "sentiment": _OF_TEXT})
ANSWER = _object(
    {
        "topics": {"type": "array", "items": _TOPIC},
        "sentiment": _OF_TEXT,
        "entities": {"type": "array", "items": _ENTITY},
        "chunks": {"type": "array", "items": _CHUNK},
    },
    optional=["chunks"],
)
ERROR = _object({"error": {"type": "string"}})
_WHOLE = {"type": "integer", "minimum": 1}
PARAMETERS: dict[str, Any] = {
    "type": ["object", "null"],
    "description": "As in a call of the pipeline.",
    "additionalProperties": False,
    "properties": {
        "max_words": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": MAX_WORDS,
            "description": "Most words in a chunk.",
        },
        "overlap_words": {
            "type": "integer",
            "minimum": 0,
            "description": "Words of the previous chunk that each chunk repeats; fewer than max_words.",
        },
        "aggregation": {"type": "string", "enum": ["max", "mean", "vote"]},
        "top_k": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "Only so many distinct topics, best first.",
        },
        "threshold": {**_SCORE, "description": "Leave out topics with a lower score."},
        "entity_threshold": {**_SCORE, "description": "Leave out entities with a lower score."},
        "return_chunks": {"type": "boolean", "description": "Add the sentiment of each chunk."},
        "batch_size": {
            **_WHOLE,
            "maximum": MAX_BATCH_SIZE,
            "description": "As an Inference Endpoint takes it, and without effect: the server makes the batches.",
        },
    },
}
REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "parameters": PARAMETERS,
    },
}
_ANSWERED: dict[str, Any] = {
    "topics": [
        {"word": "food", "score": 0.96, "start": 4, "end": 8, "sentiment": "positive", "sentiment_score": 0.97},
        {"word": "service", "score": 0.96, "start": 36, "end": 43, "sentiment": "negative", "sentiment_score": 0.96},
    ],
    "sentiment": {
        "label": "negative",
        "score": 0.9,
        "scores": {"negative": 0.9, "neutral": 0.04, "positive": 0.06},
    },
    "entities": [
        {
            "entity_group": "ORG",
            "word": "Luigi's",
            "score": 0.8,
            "start": 12,
            "end": 19,
            "sentiment": "neutral",
            "sentiment_score": 0.6,
        }
    ],
}
_EXAMPLES = {
    "one": {"summary": "A text", "value": {"inputs": TEXT}},
    "several": {
        "summary": "Several texts, and parameters",
        "value": {"inputs": [TEXT, "Fine."], "parameters": {"top_k": 5, "entity_threshold": 0.5}},
    },
}
_LINES = '{"inputs": "Great screen, says Ana."}\n{"inputs": "The soup was cold.", "parameters": {"top_k": 5}}\n'
_ERRORS = {
    400: "The body is not JSON.",
    401: "The key is missing or wrong.",
    408: "The body did not arrive in time.",
    413: "The body is too large; the message names the limit.",
    422: "The request is malformed or beyond a limit; the message says how.",
    503: "The queue is full or the model is not ready: try again after `Retry-After` seconds.",
    504: "There was no answer in time.",
}


def _error(description):
    return {"description": description, "content": {"application/json": {"schema": ERROR}}}


def _errors(*statuses):
    return {status: _error(_ERRORS[status]) for status in statuses}


def _answer(description, media_type, schema, **example):
    return {200: {"description": description, "content": {media_type: {"schema": schema, **example}}}}


def _body(media_type, schema, **examples):
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema, **examples}}}}


_KEY: dict[str, Any] = {"security": [{}, {"key": []}]}
_ONE_OR_SEVERAL = {"anyOf": [ANSWER, {"type": "array", "items": ANSWER}]}
_STATUS = _object({"status": {"type": "string"}, "workers": {"type": "integer"}})
_NOT_READY = {"description": "Not ready.", "content": {"application/json": {"schema": _STATUS}}}
PREDICT: dict[str, Any] = {
    "responses": {
        **_answer("The answer to a text, or a list of them.", "application/json", _ONE_OR_SEVERAL, example=_ANSWERED),
        **_errors(*_ERRORS),
    },
    "openapi_extra": {**_body("application/json", REQUEST, examples=_EXAMPLES), **_KEY},
}
STREAM: dict[str, Any] = {
    "responses": {
        **_answer("A line for each line, in order.", "application/x-ndjson", {"type": "string"}),
        **_errors(401, 503),
    },
    "openapi_extra": {**_body("application/x-ndjson", {"type": "string"}, example=_LINES), **_KEY},
}
HEALTH: dict[str, Any] = {"responses": {**_answer("Ready.", "application/json", _STATUS), 503: _NOT_READY}}
METRICS: dict[str, Any] = {
    "responses": {**_answer("Prometheus's format.", "text/plain", {"type": "string"}), **_errors(401)},
    "openapi_extra": _KEY,
}


def add_key(document: dict) -> dict:
    """Adds to an OpenAPI document how a key is sent."""
    document.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document
