"""Releases a checkpoint to the Hugging Face Hub: one commit, verified, then tagged.

    python release.py --repo_id ORG/NAME --version 1.2.0 --dry_run   # the files, their sizes and the card
    python release.py --repo_id ORG/NAME --version 1.2.0

Before it uploads, it checks that the work tree is clean, that the tests passed at this commit (`make test`), that
CHANGELOG.md has an entry for the version, that the recorded results (`make eval`, `make int8`) were measured on these
weights, and that the checkpoint loads and answers in a fresh process. It then uploads everything in one commit,
downloads that commit into an empty cache, compares its files and answers (torch, ONNX and OpenVINO) with those here,
and only then sets the tag `v1.2.0`. A tag is never moved. If a release is interrupted, run it again.
`--int8_repository` also releases the int8 model alone, to a repository of its own: both are verified before either is
tagged.
`pipeline(..., revision="v1.2.0")` loads it.
"""

import argparse
import sys

from tsn.hub.client import HubError
from tsn.hub.release import release
from tsn.paths import ROOT


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default=ROOT, help="folder to release (default: that of this file)")
    parser.add_argument("--repo_id", required=True, help="ORG/NAME on the Hub; created if it does not exist")
    parser.add_argument("--int8_repository", metavar="ORG/NAME", help="release the int8 model alone there, too")
    parser.add_argument("--version", required=True, help="semantic version, greater than every released one")
    parser.add_argument("--revision", default="main", help="branch to commit to; created if it does not exist")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--token", help="access token (default: HF_TOKEN, or what `hf auth login` stored)")
    parser.add_argument("--dry_run", action="store_true", help="print files, sizes and the card; contact no server")
    arguments = parser.parse_args(argv)
    try:
        release(arguments)
    except (HubError, OSError, ValueError) as error:
        sys.exit(f"release.py: {error}")


if __name__ == "__main__":
    main()
