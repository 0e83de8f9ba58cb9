"""Analyses a text and shows it in the terminal: topics, entities and sentiment in colour.

    python examples/analyse.py "Signal drops on every train to Porto."
    python examples/analyse.py --json < review.txt

Colours are used in a terminal only, and not if NO_COLOR is set.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from transformers import logging, pipeline

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ROOT / "examples" / "everyday.jsonl"  # the example is the first of them
BOLD, DIM, TOPIC, RESET = "\033[1m", "\033[2m", "\033[4;36m", "\033[0m"
ENTITY = {"PER": "\033[30;43m", "LOC": "\033[30;42m", "ORG": "\033[97;44m", "MISC": "\033[97;45m"}
SENTIMENT = {"negative": "\033[31m", "neutral": "\033[33m", "positive": "\033[32m"}


def highlighted(text: str, result: dict) -> str:
    """The text with its topics underlined and its entities on a coloured background."""
    opening, closing = {}, {}
    for span in result["topics"]:
        opening.setdefault(span["start"], []).append(TOPIC)
        closing.setdefault(span["end"], []).append("topic")
    for span in result["entities"]:
        opening.setdefault(span["start"], []).append(ENTITY.get(span["entity_group"], BOLD))
        closing.setdefault(span["end"], []).append("entity")
    out, active = [], {"topic": "", "entity": ""}
    for i, character in enumerate(text):
        for kind in closing.get(i, ()):
            active[kind] = ""
            out.append(RESET + active["topic"] + active["entity"])
        for code in opening.get(i, ()):
            active["topic" if code == TOPIC else "entity"] = code
            out.append(code)
        out.append(character)
    return "".join(out) + RESET


def report(text: str, result: dict, colour: bool) -> str:
    """The whole answer as lines of text: the sentiment, then each topic and entity with its own."""
    paint = (lambda code, value: f"{code}{value}{RESET}") if colour else (lambda code, value: value)
    lines = [highlighted(text, result) if colour else text, ""]
    sentiment = result["sentiment"]
    label = sentiment["label"] or "none"
    shares = ", ".join(f"{name} {score:.2f}" for name, score in sentiment["scores"].items())
    lines.append(
        f"{paint(BOLD, 'Sentiment')}  {paint(SENTIMENT.get(label, BOLD), label)}  {paint(DIM, f'({shares})')}"
    )
    for title, spans in (("Topics", result["topics"]), ("Entities", result["entities"])):
        lines.append(paint(BOLD, title) + ("" if spans else "  none"))
        for span in spans:
            kind = span.get("entity_group")  # topics have none
            code = TOPIC if kind is None else ENTITY.get(kind, BOLD)
            feeling = paint(SENTIMENT.get(span["sentiment"], BOLD), span["sentiment"])
            place = paint(DIM, f"{span['score']:.2f}  {span['start']}-{span['end']}")
            word = paint(code, " ".join(span["word"].split()))
            lines.append("  ".join(["", word, *filter(None, [kind]), feeling, place]))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", help="the text (default: standard input if piped, else an example)")
    parser.add_argument("--model", default=str(ROOT), help="folder or Hub id (default: the model of this repository)")
    parser.add_argument("--json", action="store_true", help="print the pipeline's result as JSON")
    arguments = parser.parse_args()
    text = arguments.text
    if not text:
        piped = "" if sys.stdin.isatty() else sys.stdin.read().strip()
        text = piped or json.loads(TEXTS.read_text(encoding="utf-8").splitlines()[0])["text"]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    result = pipeline("topic-sentiment-ner", model=arguments.model, trust_remote_code=True)(text)
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(report(text, result, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))


if __name__ == "__main__":
    main()
