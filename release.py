"""Releases a checkpoint to the Hugging Face Hub: one commit, verified, then tagged.

    python release.py --repo_id ORG/NAME --version 1.2.0 --dry_run   # the files, their sizes and the card
    python release.py --repo_id ORG/NAME --version 1.2.0

Before it uploads, it checks that the work tree is clean, that the tests passed at this commit (`make test`), that the
recorded evaluation (`make eval`, `make int8`) is that of these weights, and that the checkpoint loads and answers in a
fresh process. It then uploads everything in one commit, downloads that commit into an empty cache, compares files and
answers, of torch and of ONNX, with those here, and only then sets the tag `v1.2.0`. A tag is never moved. A release
that was interrupted is run again. `pipeline(..., revision="v1.2.0")` loads it.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import semver
from huggingface_hub import constants, get_token

from card_tsn import card_text
from hub_files_tsn import EVAL_RESULTS, HERE, QUANTIZATION_REPORT, check_content, release_files
from upload_tsn import HubError, Repository
from verify_tsn import ask, same

TEST_RESULTS = Path("out", "test_results.json")  # written by `make test`, see tests/conftest.py


def git(*arguments):
    """What git prints, asked in the folder of this file.

    Raises:
        ValueError: git fails, as it does outside a repository.
    """
    done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, encoding="utf-8")
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}; release from a clone of the repository")
    return done.stdout.strip()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_problems(files):
    """Why this must not be released, a list of messages: the work tree, the tests, the recorded results."""
    problems = []
    changed = git("status", "--porcelain")
    if changed:
        problems.append(f"the work tree is not clean, commit first:\n{changed}")
    head, record = git("rev-parse", "HEAD"), HERE / TEST_RESULTS
    tests = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
    if tests is None:
        problems.append("the tests were not run here: make test")
    elif tests["commit"] != head or not tests["clean"]:
        problems.append(f"the tests were last run at another state than commit {head[:10]}: make test")
    elif tests["exit_status"] != 0 or not tests["passed"]:
        problems.append(f"the tests did not pass: {tests['failed']} failed of {tests['failed'] + tests['passed']}")
    weights = sha256(files["model.safetensors"])
    results = json.loads(files[EVAL_RESULTS].read_text(encoding="utf-8"))
    if results["weights_sha256"] != weights:
        problems.append(f"{EVAL_RESULTS} was measured on other weights than model.safetensors: make eval")
    onnx = [name for name in files if name.endswith(".onnx")]
    if onnx:
        report = json.loads(files[QUANTIZATION_REPORT].read_text(encoding="utf-8"))
        if report["weights_sha256"] != weights:
            problems.append("the ONNX files were made of other weights than model.safetensors: make int8")
        problems += [
            f"{name} is not the file that {QUANTIZATION_REPORT} tells of: make int8"
            for name in onnx
            if report["files"].get(Path(name).name, {}).get("sha256") != sha256(files[name])
        ]
    return problems


def stage(files, card, folder):
    """Copies the files to a folder as they will stand on the Hub, so that what is checked is what is sent."""
    staged = {}
    for name, path in {**files, "README.md": None}.items():
        staged[name] = folder / name
        staged[name].parent.mkdir(parents=True, exist_ok=True)
        if path is None:
            staged[name].write_text(card, encoding="utf-8")
        else:
            shutil.copyfile(path, staged[name])
    return dict(sorted(staged.items()))


def describe(files, card):
    """The file list with sizes, and the card."""
    sizes = {name: path.stat().st_size for name, path in files.items()}
    sizes = dict(sorted({**sizes, "README.md": len(card.encode())}.items()))
    lines = [f"{size:>13,}  {name}" for name, size in sizes.items()]
    return "\n".join([*lines, f"{sum(sizes.values()):>13,}  bytes in {len(sizes)} files", "", card])


def say(message):
    print(message, file=sys.stderr, flush=True)


def verify(repository, commit, staged, expected, token):
    """Downloads the commit into an empty cache and compares files and answers with those here.

    Raises:
        HubError: something differs, or it cannot be had.
    """
    onnx = [name for name in expected["answers"] if name != "torch"]
    with tempfile.TemporaryDirectory() as cache:
        try:
            found = ask(repository.repo_id, onnx, cache, commit, token)
        except RuntimeError as error:
            raise HubError(f"commit {commit} could not be verified and is not tagged: {error}") from error
        for name, path in staged.items():
            there = Path(found["folder"], name)
            if not there.is_file() or there.read_bytes() != path.read_bytes():
                raise HubError(f"{name} of commit {commit} is not the file that was sent; it is not tagged")
    for engine, answers in expected["answers"].items():
        if not same(found["answers"][engine], answers):
            raise HubError(f"commit {commit} answers otherwise than the files here ({engine}); it is not tagged")


def release(arguments):
    """The command; see the top of this file.

    Raises:
        ValueError: something here is not fit for a release.
        HubError: the Hub did not do its part; nothing was tagged that was not verified.
    """
    folder, version = Path(arguments.checkpoint).resolve(), arguments.version
    if not semver.Version.is_valid(version) or semver.Version.parse(version).build:
        raise ValueError(f"--version must be a semantic version such as 1.2.0 or 2.0.0-rc.1, not {version!r}")
    card = card_text(folder)
    check_content("README.md", card.encode())
    files = release_files(folder, card)
    if arguments.dry_run:
        print(describe(files, card), end="")
        problems = find_problems(files)
    else:
        if (folder / "README.md").read_text(encoding="utf-8") != card:
            (folder / "README.md").write_text(card, encoding="utf-8")
            say("README.md was behind the recorded results and has been written anew.")
        problems = find_problems(files)
    if problems:
        raise ValueError("not fit for a release:\n- " + "\n- ".join(problems))
    if arguments.dry_run:
        return
    token = arguments.token or get_token()
    if token is None:
        raise HubError("there is no token: log in with `hf auth login`, set HF_TOKEN or pass --token")
    repository = Repository(arguments.repo_id, arguments.revision, token)
    with tempfile.TemporaryDirectory(prefix="tsn-release-") as temporary:
        temporary = Path(temporary)
        staged = stage(files, card, temporary / "files")
        _, tags = repository.references()
        tagged = repository.check_version(version, tags)
        if tagged is not None:
            if not repository.holds(staged, tagged):
                raise ValueError(f"v{version} is commit {tagged} and holds other files; choose a greater --version")
            say(f"v{version} was released already, with these very files.")
        else:
            say("Loading the files in a fresh process ...")
            onnx = [Path(name).name for name in staged if name.endswith(".onnx")]
            try:
                expected = ask(temporary / "files", onnx, temporary / "cache")
            except RuntimeError as error:
                raise ValueError(str(error)) from error
            say(f"Uploading {len(staged)} files ...")
            repository.create(arguments.private)
            commit = repository.commit(staged, f"TSN v{version} (source {git('rev-parse', '--short=10', 'HEAD')})")
            say(f"Verifying commit {commit} ...")
            verify(repository, commit, staged, expected, token)
            repository.tag(version, commit)
    print(f"{os.environ.get('HF_ENDPOINT', constants.ENDPOINT)}/{arguments.repo_id}/tree/v{version}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default=HERE, help="folder to release (default: that of this file)")
    parser.add_argument("--repo_id", required=True, help="ORG/NAME on the Hub; made if it is not there")
    parser.add_argument("--version", required=True, help="semantic version, greater than that of every tag there")
    parser.add_argument("--revision", default="main", help="branch to commit to; made if it is not there")
    parser.add_argument("--private", action="store_true", help="make the repository a private one")
    parser.add_argument("--token", help="access token (default: HF_TOKEN, or what `hf auth login` stored)")
    parser.add_argument("--dry_run", action="store_true", help="print files, sizes and the card; ask no server")
    arguments = parser.parse_args(argv)
    try:
        release(arguments)
    except (HubError, OSError, ValueError, KeyError) as error:
        sys.exit(f"release.py: {error}")


if __name__ == "__main__":
    main()
