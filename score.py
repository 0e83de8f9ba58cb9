"""Scores tables of any size: one row out for every row in, in order, with topics, sentiment and entities.

    python score.py reviews.csv --output scored.jsonl
    python score.py news/*.parquet --output scored.parquet --text_column body --threads 8 --report report.html

The output keeps the input's columns and adds these; an input column of the same name becomes `input_NAME`.

    topics, entities    what the pipeline returns: word, score, start, end, sentiment, sentiment_score, and for
                        entities entity_group
    sentiment           negative, neutral or positive; null for a text that has no word
    sentiment_scores    the probability of each
    error               why a row could not be scored, else null

A summary goes to standard output (who and what people praise or complain about), progress to standard error.
Stop it at any time and run the same command again to continue: finished parts are kept in `OUTPUT.parts`.
"""

import sys
from pathlib import Path

from tsn.scoring.arguments import build_parser
from tsn.scoring.run import score
from tsn.scoring.workers import WorkerKilled


def main(argv=None):
    arguments = build_parser(__doc__).parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # a phrase may hold what the terminal cannot show
    resume = f"finished parts are kept in {arguments.output}.parts; run the same command again to continue"
    try:
        print(score(arguments).tables(), end="")
    except KeyboardInterrupt:
        print(f"\nscore.py: stopped; {resume}", file=sys.stderr)
        sys.exit(130)
    except WorkerKilled:
        sys.exit(f"score.py: a worker was killed, perhaps for lack of memory; {resume}, with fewer --threads if so")
    except (OSError, ValueError, ImportError, RuntimeError, MemoryError) as error:
        resumable = any(Path(f"{arguments.output}.parts").glob("[0-9]*.json")) and "delete" not in str(error)
        sys.exit(f"score.py: {error or type(error).__name__}{f'; {resume}' if resumable else ''}")


if __name__ == "__main__":
    main()
