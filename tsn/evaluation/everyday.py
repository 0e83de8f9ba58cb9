"""Everyday texts, and whether the model answers them as a person would.

    python -m tsn.evaluation.everyday CHECKPOINT [--output_dir results/everyday]

Reads `examples/everyday.jsonl`. Each line holds a `text` and what a person would answer: `topics` with the sentiments
that would do, `entities` with the types and sentiments that would do (an empty list: any), and the sentiments of the
text that would do. Writes `everyday.json` and a table, `everyday.md`, and prints the table.
"""

import argparse
import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

from modeling_tsn import TSNModel
from pipeline_tsn import TSNPipeline
from tsn.evaluation.aspects import COMMON_NOUN_SCORE
from tsn.paths import ROOT

TEXTS = ROOT / "examples" / "everyday.jsonl"


def read_texts(path: Path = TEXTS) -> list[dict]:
    """The texts with their expected answers."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def differences(expected: dict, answer: dict) -> list[str]:
    """What in the pipeline's answer a person would not have said; empty where it is right.

    A topic may be wider or narrower than expected, and there may be more topics than expected. Entities are exact:
    the borders, the type and where one is expected the sentiment, and there are no others. Those with a lower score
    than eval.py counts on a common noun do not count here, either.
    """
    text, wrong = expected["text"], []
    for topic in expected["topics"]:
        begin = text.index(topic["word"])
        end = begin + len(topic["word"])
        found = [t for t in answer["topics"] if t["start"] < end and begin < t["end"]]
        if not found:
            wrong.append(f"topic {topic['word']} is missing")
        elif not any(t["sentiment"] in topic["sentiment"] for t in found):
            wrong.append(f"topic {found[0]['word']} is {found[0]['sentiment']}, not {' or '.join(topic['sentiment'])}")
    entities = {e["word"]: e for e in answer["entities"] if e["score"] >= COMMON_NOUN_SCORE}
    for entity in expected["entities"]:
        found = entities.pop(entity["word"], None)
        if found is None:
            wrong.append(f"entity {entity['word']} is missing")
        elif found["entity_group"] not in entity["entity_group"]:
            wrong.append(
                f"entity {entity['word']} is {found['entity_group']}, not {' or '.join(entity['entity_group'])}"
            )
        elif entity["sentiment"] and found["sentiment"] not in entity["sentiment"]:
            wrong.append(f"entity {entity['word']} is {found['sentiment']}, not {' or '.join(entity['sentiment'])}")
    wrong += [f"{e['word']} is no entity ({e['entity_group']})" for e in entities.values()]
    if answer["sentiment"]["label"] not in expected["sentiment"]:
        wrong.append(f"the text is {answer['sentiment']['label']}, not {' or '.join(expected['sentiment'])}")
    return wrong


def everyday_table(results: list[dict]) -> str:
    """Markdown: a row for each text, and what is wrong with the answer."""
    rows = [f"| {r['text'].replace('|', chr(92) + '|')} | {'; '.join(r['wrong']) or 'right'} |" for r in results]
    right = sum(not r["wrong"] for r in results)
    return "\n".join([f"{right} of {len(results)} are right.", "", "| text | answer |", "|---|---|", *rows, ""])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of a TSN model")
    parser.add_argument("--output_dir", help="where everyday.json and everyday.md go (default: they are not written)")
    arguments = parser.parse_args(argv)
    try:
        model = TSNModel.from_pretrained(arguments.checkpoint).eval()
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint, trust_remote_code=False)
    except (OSError, ValueError) as error:
        sys.exit(f"everyday: {error}")
    texts = read_texts()
    answers = TSNPipeline(model=model, tokenizer=tokenizer)([row["text"] for row in texts])
    results = [{"text": t["text"], "wrong": differences(t, a), "answer": a} for t, a in zip(texts, answers)]
    table = everyday_table(results)
    print(table, end="")
    if arguments.output_dir:
        folder = Path(arguments.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "everyday.json").write_text(
            json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (folder / "everyday.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
