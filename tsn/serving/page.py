"""The page at `/`: a form without scripts, and the answer as the Space shows it."""

import json
from html import escape
from typing import NamedTuple
from urllib.parse import parse_qs

from highlight_tsn import STYLE, chunk_sentiments, highlighted
from tsn.serving.requests import Parsed, Refused

MAX_FORM = 2_000_000  # bytes
THRESHOLDS = ("threshold", "entity_threshold")
_LOOK = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; color: #1f1f1f; }
textarea { width: 100%; box-sizing: border-box; font: inherit; padding: .5rem; }
label { display: inline-block; margin: .5rem 1rem .5rem 0; }
input[type=number] { width: 5rem; }
button { font: inherit; padding: .4rem 1.2rem; }
table { border-collapse: collapse; margin-top: 1rem; width: 100%; }
td, th { border-bottom: 1px solid #dadce0; padding: .2rem .6rem .2rem 0; text-align: left; overflow-wrap: anywhere; }
[role=alert] { color: #b3261e; }
"""


class Form(NamedTuple):
    """What was typed."""

    text: str = ""
    threshold: str = "0"
    entity_threshold: str = "0"
    key: str = ""

    def checked(self, service) -> Parsed:
        """The request that the form stands for.

        Raises:
            Refused: see `tsn.serving.requests.parse`.
        """
        if not self.text.strip():
            raise Refused(422, "There is no text yet: type or paste one.")
        parameters: dict[str, bool | float] = {"return_chunks": True}
        for name in THRESHOLDS:
            try:
                parameters[name] = float(getattr(self, name) or 0)
            except ValueError:
                raise Refused(422, f"{name} must be a number from 0 to 1") from None
        return service.parse(json.dumps({"inputs": self.text, "parameters": parameters}).encode("ascii"))


NOTHING = Form()


def read_form(body: bytes) -> Form:
    """A form as browsers send it; of bytes that are none, an empty one.

    Line ends become single characters, as in the text that was typed.
    """
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return Form()
    values = {name: fields[name][-1] for name in Form._fields if name in fields}
    return Form(**values)._replace(text=values.get("text", "").replace("\r\n", "\n"))


def page(needs_key: bool, form: Form = NOTHING, result: bytes | None = None, error: str | None = None) -> str:
    """The page as HTML.

    Args:
        needs_key: Show a field for the key.
        form: What was typed.
        result: JSON of the answer to its text, with `chunks`.
        error: What was wrong.
    """
    fields = "".join(
        f'<label>{name} <input type="number" name="{name}" min="0" max="1" step="0.05" '
        f'value="{escape(getattr(form, name), quote=True)}"></label>'
        for name in THRESHOLDS
    )
    if needs_key:
        fields += (
            '<label>Key <input type="password" name="key" autocomplete="off" '
            f'value="{escape(form.key, quote=True)}"></label>'
        )
    shown = "" if error is None else f'<p role="alert">{escape(error)}</p>'
    if result is not None:
        shown = _answer(form.text, json.loads(result))
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>TSN: topics, sentiment, entities</title><style>{_LOOK}{STYLE}</style></head>
<body>
<h1>TSN: topics, sentiment and named entities in one read</h1>
<p>Topics are underlined, in green where they are praised and with a red wave where they are blamed; entities are
marked with their type, and with + or &minus; where they are praised or blamed. For programs: see
<a href="docs">the API</a>.</p>
<form method="post" action="" accept-charset="utf-8">
<label for="text">Text</label>
<textarea id="text" name="text" rows="6" autofocus>\n{escape(form.text)}</textarea>
{fields}<br><button>Analyse</button>
</form>
<main aria-live="polite">{shown}</main>
</body>
</html>
"""


def _answer(text, result):
    if result["sentiment"]["label"] is None:
        return '<p role="alert">The text has no visible character.</p>'
    shares = "".join(
        f"<tr><td>{escape(k)}</td><td>{v:.0%}</td></tr>" for k, v in result["sentiment"]["scores"].items()
    )
    rows = [("topic", topic) for topic in result["topics"]] + [(e["entity_group"], e) for e in result["entities"]]
    spans = "".join(
        f"<tr><td>{escape(kind)}</td><td>{escape(span['word'])}</td><td>{span['score']:.2f}</td>"
        f"<td>{escape(span['sentiment'])}</td></tr>"
        for kind, span in rows
    )
    chunks = ""
    if len(result["chunks"]) > 1:
        chunks = f"<h2>Sentiment by chunk</h2>{chunk_sentiments(text, result['chunks'])}"
    return (
        f"{highlighted(text, result)}<h2>Sentiment: {escape(result['sentiment']['label'])}</h2><table>{shares}</table>"
        "<h2>Topics, then entities</h2><table><tr><th>kind</th><th>phrase</th><th>score</th><th>sentiment</th></tr>"
        f"{spans}</table>{chunks}"
    )
