"""A request's bytes to checked texts and parameters, with the same checks as the Inference Endpoint's handler."""

import json
import logging
import traceback
from typing import NamedTuple

from chunking_tsn import check_chunk_sizes, check_options, check_whole_number
from handler import read_request

MAX_WORDS = 512  # in a chunk: one holds up all other texts of its worker
log = logging.getLogger("tsn.serving")


class Refused(Exception):
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        message: What the caller is told.
        headers: Of the response.
    """

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def unavailable(message: str) -> Refused:
    """A 503 that says to try again."""
    return Refused(503, message, retry_after="1")


def internal_error(error: Exception) -> Refused:
    """A 500 for what should not happen; the log says where it did, without the message, which might quote a text."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    log.error("%s in %s, line %s", type(error).__name__, place.filename, place.lineno)
    return Refused(500, "internal error")


class Parsed(NamedTuple):
    """A checked request."""

    texts: list[str]
    single: bool  # one text, and not a list of texts
    parameters: dict


def parse(body: bytes, max_texts: int, max_characters: int, chunk_words: int) -> Parsed:
    """Reads and checks the JSON of a request.

    Args:
        body: As it was sent.
        max_texts, max_characters: Limits to the number of texts, and to the length of each.
        chunk_words: The model's default for `max_words`.

    Raises:
        Refused: 400 if it is not JSON, 422 if it is not a request or beyond a limit, which the message names.
    """
    try:
        data = json.loads(body)
    except RecursionError:
        raise Refused(400, "the request is not JSON: it is nested too deeply") from None
    except ValueError as error:  # their messages quote no text
        raise Refused(400, f"the request is not JSON: {error}") from None
    try:
        inputs, parameters = read_request(data)
        check_whole_number("batch_size", parameters.pop("batch_size"), 1)
        shape = {name: value for name, value in parameters.items() if name not in ("max_words", "overlap_words")}
        check_options(**shape)
        max_words = parameters.get("max_words")
        parameters["max_words"] = chunk_words if max_words is None else max_words
        parameters.setdefault("overlap_words", 0)
        check_chunk_sizes(parameters["max_words"], parameters["overlap_words"])
        if parameters["max_words"] > MAX_WORDS:
            raise ValueError(f"max_words must be {MAX_WORDS} at most on a server, not {parameters['max_words']}")
    except ValueError as error:
        raise Refused(422, str(error)) from None
    texts = [inputs] if isinstance(inputs, str) else inputs
    if len(texts) > max_texts:
        raise Refused(422, f"inputs has {len(texts)} texts; this server takes {max_texts} in a request (max_texts)")
    for i, text in enumerate(texts):
        if len(text) > max_characters:
            name = "inputs" if isinstance(inputs, str) else f"inputs[{i}]"
            raise Refused(
                422, f"{name} has {len(text)} characters; this server takes {max_characters} (max_characters)"
            )
    return Parsed(texts, isinstance(inputs, str), parameters)
