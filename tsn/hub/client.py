"""Calls of huggingface_hub that end: with time limits, retries, and errors that say what to do.

It speaks requests up to 0.36, httpx from 1.0 and httpx2 from 2.0 on. Of these, only what huggingface_hub itself shows
is used here: the place where it has its session made, and its errors, with the Hub's response.
"""

import functools
import re
import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

TIME_LIMIT = 60  # seconds without a byte; huggingface_hub itself waits for ever
RETRIES, LONGEST_WAIT = 5, 120  # seconds; a Hub that asks for more is not waited for
_TRANSIENT = (408, 429, 500, 502, 503, 504)
# What a request without an answer raises: its library's base class, from which huggingface_hub derives its own error.
_NO_ANSWER: tuple[type[Exception], ...] = tuple(
    kind for kind in HfHubHTTPError.__mro__ if kind.__module__.partition(".")[0] in ("requests", "httpx", "httpx2")
)
# RuntimeError is a failed upload, ValueError a card that the Hub refuses, and OSError what Xet raises.
_FAILURES: tuple[type[Exception], ...] = (*_NO_ANSWER, OSError, RuntimeError, ValueError)
_ADVICE = {
    404: "{repo} or this revision of it does not exist, or the token may not see it",
    401: "the token is not known to the Hub: log in with `hf auth login`, set HF_TOKEN or pass --token",
    403: "the token may not write to {repo}: use one with write access",
    409: "the repository was changed by someone else meanwhile: run the release again",
    412: "the repository was changed by someone else meanwhile: run the release again",
}


class HubError(Exception):
    """The Hub refused, failed or could not be reached; the message says what to do."""


def limit_time():
    """Has every request of this process give up after `TIME_LIMIT` seconds without a byte."""
    if set_client_factory := getattr(huggingface_hub, "set_client_factory", None):
        default: Any = huggingface_hub.get_session()
        options = {"event_hooks": default.event_hooks, "follow_redirects": True, "timeout": TIME_LIMIT}
        set_client_factory(lambda: type(default)(**options))
    else:
        import requests  # which comes with huggingface_hub before 1.0

        def session():
            made = requests.Session()
            made.request = functools.partial(made.request, timeout=TIME_LIMIT)  # type: ignore[method-assign]
            return made

        huggingface_hub.configure_http_backend(session)


def ask(method, /, **arguments):
    """What a method of `HfApi` returns, an iterator as a list. What may succeed later is tried again.

    Raises:
        HubError: the Hub refuses, fails repeatedly or cannot be reached. Its cause is huggingface_hub's error.
    """
    tries = 0
    while True:
        try:
            answer = method(**arguments)
            return list(answer) if isinstance(answer, Iterator) else answer  # pages are fetched while they are read
        except _FAILURES as error:
            cause, name = _cause(error), getattr(method, "__name__", "a request")
            if name == "create_commit" and _is_of_xet(error, cause):
                # On the Hub, Xet sends what has changed and nothing else. A server that mirrors the Hub may have no
                # Xet, and huggingface_hub 2 does not look for another way, so we do: Git LFS, for this process.
                constants.HF_HUB_DISABLE_XET = True
                print(f"{name} by Xet failed ({_first_line(error)}); again by Git LFS", file=sys.stderr)
                continue
            wait = _seconds_to_wait(cause, tries)
            if wait is None or wait > LONGEST_WAIT or tries == RETRIES:
                raise HubError(_explain(error, cause, arguments.get("repo_id"))) from error
            tries += 1
            print(f"{name} failed ({_first_line(cause)}); again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)


def _cause(error):
    """The error of HTTP behind what was raised, or what lies deepest."""
    while not isinstance(error, _NO_ANSWER) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_of_xet(error, cause):
    of_http = isinstance(cause, _NO_ANSWER) or isinstance(error, ValueError)
    return not of_http and not constants.HF_HUB_DISABLE_XET and isinstance(error, (OSError, RuntimeError))


def _seconds_to_wait(cause, tries):
    """How long to wait before the next try, as the Hub asks or ever longer; None if another try is of no use."""
    response = getattr(cause, "response", None)
    if response is None:
        return 0.5 * 2**tries if isinstance(cause, _NO_ANSWER) else None
    if response.status_code not in _TRANSIENT:
        return None
    asked = _retry_after(response.headers)
    return 0.5 * 2**tries if asked is None else asked


def _retry_after(headers):
    """Seconds: `Retry-After`, a number or a date, or else the `RateLimit` of the Hub, `"api";r=0;t=55`."""
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return int(value)
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0)
    except ValueError:
        limit = re.search(r";\s*r=0;\s*t=(\d+)", headers.get("RateLimit", ""))
        return int(limit[1]) if limit else None


def _first_line(error):
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _explain(error, cause, repo):
    status = getattr(getattr(cause, "response", None), "status_code", None)
    reason = getattr(cause, "server_message", None) or _first_line(error)
    if advice := _ADVICE.get(status or 0):
        return f"{advice.format(repo=repo)} (the Hub answered {status}: {reason})"
    if status is not None and status in _TRANSIENT:
        return f"the Hub answered {status} repeatedly: run the release again later ({reason})"
    if status is None and isinstance(cause, _NO_ANSWER):
        hub = f"the Hub at {constants.ENDPOINT}"
        return f"{hub} cannot be reached or does not answer: run the release again ({reason})"
    return f"the Hub refused: {error}"
