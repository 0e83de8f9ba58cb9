"""What `release.py` does: releases a checkpoint to the Hub in one commit, which is verified, then tagged."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import semver
from huggingface_hub import HfApi, constants, get_token

from tsn.hub.benchmarks import benchmark_files
from tsn.hub.card import INT8_MARKER, card_pages, write_pages
from tsn.hub.client import HubError, limit_time
from tsn.hub.files import (
    CARD,
    GRAPHS,
    INT8_FILE,
    NOTEBOOK,
    REPORT,
    check_content,
    hub_name,
    hub_page,
    read_record,
    release_files,
)
from tsn.hub.int8 import int8_release
from tsn.hub.repository import Repository
from tsn.hub.verify import ask, download, same
from tsn.paths import EVAL_RESULTS, INT8_RESULTS, ROOT, sha256

CHANGELOG = "CHANGELOG.md"
TEST_RESULTS = ROOT / "out" / "test_results.json"  # written by `make test`, see tests/record_tests.py


def git(*arguments):
    """What git prints, asked in this repository.

    Raises:
        ValueError: git fails, as it does outside a repository.
    """
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, encoding="utf-8")
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}; release from a clone of the repository")
    return done.stdout.strip()


def check_names(arguments):
    """Raises `ValueError` if a repository, the version or the branch is not named as it must be."""
    for option in ("repo_id", "int8_repository"):
        name = getattr(arguments, option)
        if name is not None and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
            raise ValueError(f"--{option} must be ORG/NAME, not {name!r}")
    if arguments.int8_repository == arguments.repo_id:
        raise ValueError("--int8_repository must be another one than --repo_id")
    if not semver.Version.is_valid(arguments.version) or semver.Version.parse(arguments.version).build:
        raise ValueError(
            f"--version must be a semantic version such as 1.2.0 or 2.0.0-rc.1, not {arguments.version!r}"
        )
    if semver.Version.is_valid(arguments.revision.removeprefix("v")):
        raise ValueError(f"--revision is a branch, such as main; {arguments.revision} would be taken for a tag")


def find_problems(files, pages, folder, version):
    """Why this must not be released, a list of messages: work tree, tests, changelog, recorded results."""
    return [*_unclean(), *_untested(), *_unexplained(folder, version), *_unmeasured(files, pages)]


def _unclean():
    changed = git("status", "--porcelain")
    return [f"the work tree is not clean, commit first:\n{changed}"] if changed else []


def _untested():
    if not TEST_RESULTS.exists():
        return ["the tests have not been run here: make test"]
    tests, head = read_record(TEST_RESULTS), git("rev-parse", "HEAD")
    if tests["commit"] != head or not tests["clean"]:
        return [f"the tests were last run on another state than commit {head[:10]}: make test"]
    if tests["exit_status"] != 0 or not tests["passed"]:
        return [f"the tests did not pass: {tests['failed']} failed of {tests['failed'] + tests['passed']}"]
    return []


def _unexplained(folder, version):
    """A version has an entry in the changelog; a model outside this repository needs none."""
    path = folder / CHANGELOG
    if folder != ROOT and not path.exists():
        return []
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if re.search(rf"^## \[?{re.escape(version)}\]?(\s|$)", text, re.MULTILINE):
        return []
    return [f"{CHANGELOG} has no entry for this version: add `## [{version}] - DATE` and what changed"]


def _unmeasured(files, pages):
    weights, problems = sha256(files["model.safetensors"]), []
    if read_record(files[hub_name(EVAL_RESULTS)])["weights_sha256"] != weights:
        problems.append(f"{EVAL_RESULTS} was measured on other weights than model.safetensors: make eval")
    graphs = {folder: _graphs(files, folder) for folder in GRAPHS}
    for folder, digests in graphs.items():
        problems += _unreported(files, folder, digests, weights) if digests else []
    if any(INT8_MARKER in text for text in pages.values()):
        if INT8_FILE not in files:
            problems.append(f"the card reports int8 results but {INT8_FILE} is missing: make int8")
        elif read_record(files[hub_name(INT8_RESULTS)])["weights_sha256"] != graphs["onnx"][INT8_FILE]:
            problems.append(f"{INT8_RESULTS} was measured on another file than {INT8_FILE}: make int8")
    return problems


def _graphs(files, folder):
    """Names of a folder's graphs in a release, each with its SHA-256."""
    names = [name for name in files if Path(name).parent.name == folder and GRAPHS[folder].fullmatch(Path(name).name)]
    return {name: sha256(files[name]) for name in names}


def _unreported(files, folder, digests, weights):
    """What is wrong about the graphs of a folder, by the report that `quantize.py` wrote beside them."""
    again = "make int8" if folder == "onnx" else f"quantize.py --backend {folder}"
    if f"{folder}/{REPORT}" not in files:
        return [f"{folder}/ is there without {folder}/{REPORT}: {again}"]
    report, problems = read_record(files[f"{folder}/{REPORT}"]), []
    if report["weights_sha256"] != weights:
        problems.append(f"the files of {folder}/ were made of other weights than model.safetensors: {again}")
    return problems + [
        f"{name} is not the file that {folder}/{REPORT} describes: {again}"
        for name, digest in digests.items()
        if report["files"].get(Path(name).name, {}).get("sha256") != digest
    ]


def stage(files, pages, folder, repo_id):
    """Copies the files to a folder as they will stand on the Hub: what is checked is what is sent.

    The notebook opens the model that it is released with.

    Raises:
        ValueError: a file holds what must not be published.
    """
    staged = {}
    for name in sorted({*files, *pages}):
        staged[name] = folder / name
        staged[name].parent.mkdir(parents=True, exist_ok=True)
        if name in pages:
            staged[name].write_bytes(hub_page(pages[name], name).encode())
        elif name == NOTEBOOK:
            staged[name].write_bytes(files[name].read_bytes().replace(b"org/tsn", repo_id.encode()))
        else:
            shutil.copyfile(files[name], staged[name])
        check_content(name, staged[name].read_bytes())
    return staged


def describe(staged):
    """The file list with sizes, and the card."""
    sizes = {name: path.stat().st_size for name, path in staged.items()}
    lines = [f"{size:>13,}  {name}" for name, size in sizes.items()]
    card = staged[CARD].read_text(encoding="utf-8")
    return "\n".join([*lines, f"{sum(sizes.values()):>13,}  bytes in {len(sizes)} files", "", card])


def say(message):
    print(message, file=sys.stderr, flush=True)


def verify(repo_id, commit, staged, expected, token):
    """Downloads the commit into an empty cache and compares files and answers with those here.

    Raises:
        HubError: something differs, or the download failed.
    """
    with tempfile.TemporaryDirectory() as cache:
        try:
            folder = download(repo_id, commit, cache, token)
            for name, path in staged.items():  # before anything of it is run
                if not (folder / name).is_file() or (folder / name).read_bytes() != path.read_bytes():
                    raise HubError(f"{name} of commit {commit} is not the file that was sent; it is not tagged")
            answers = ask(repo_id, list(expected), cache, commit)
        except RuntimeError as error:
            raise HubError(f"commit {commit} could not be verified and is not tagged: {error}") from error
    for engine, wanted in expected.items():
        if not same(answers[engine], wanted):
            raise HubError(f"commit {commit} gives other answers than the files here ({engine}); it is not tagged")


def release(arguments):
    """What the command does; see `release.py`.

    Raises:
        ValueError: something here is not fit for a release.
        HubError: the Hub refused or failed; nothing was tagged that was not verified.
    """
    check_names(arguments)
    folder = Path(arguments.checkpoint).resolve()
    pages = card_pages(folder)
    if not arguments.dry_run:
        for name in write_pages(folder, pages):
            say(f"{name} was behind the recorded results and has been filled again.")
    with tempfile.TemporaryDirectory(prefix="tsn-release-") as temporary:
        staged = stage(release_files(folder, pages), pages, Path(temporary, "files"), arguments.repo_id)
        releases = {arguments.repo_id: staged}
        if arguments.int8_repository:
            files, card = int8_release(staged, folder, arguments)
            repo_id = arguments.int8_repository
            releases[repo_id] = stage(files, {CARD: card}, Path(temporary, "int8"), repo_id)
        if arguments.dry_run:
            print("\n".join(describe(files) for files in releases.values()), end="")
        problems = find_problems(staged, pages, folder, arguments.version)
        if problems:
            raise ValueError("not fit for a release:\n- " + "\n- ".join(problems))
        if not arguments.dry_run:
            publish(releases, arguments, Path(temporary, "cache"))
            for repo_id in releases:
                print(f"{constants.ENDPOINT}/{repo_id}/tree/v{arguments.version}")


def publish(releases, arguments, cache):
    """Uploads, verifies and tags what has not been released already. No repository is tagged before all are verified.

    Raises:
        ValueError: the version is taken or too low, or the files do not load in a fresh process.
        HubError: as `release`.
    """
    version, token = arguments.version, arguments.token or get_token()
    if token is None:
        raise HubError("no token: log in with `hf auth login`, set HF_TOKEN or pass --token")
    limit_time()
    stage_benchmarks(releases[arguments.repo_id], arguments, token)
    left, expected, commits = {}, {}, {}
    for repo_id, staged in releases.items():
        repository = Repository(repo_id, arguments.revision, token)
        tagged = repository.check_version(version, repository.references()[1])
        if tagged is None:
            left[repository] = staged
        elif not repository.holds(staged, tagged):
            raise ValueError(
                f"v{version} of {repo_id} is commit {tagged} and holds other files; choose a greater --version"
            )
        else:
            say(f"v{version} of {repo_id} has already been released, with exactly these files.")
    for repository, staged in left.items():
        say("Loading the files in a fresh process ...")
        engines = ["torch"] if "model.safetensors" in staged else []
        engines += [Path(name).name for name in staged if name.endswith((".onnx", ".xml"))]
        try:
            expected[repository] = ask(staged["config.json"].parent, engines, cache)
        except RuntimeError as error:
            raise ValueError(f"the files do not load: {error}") from error
    for repository, staged in left.items():
        say(f"Uploading {len(staged)} files ...")
        repository.create(arguments.private)
        message = f"TSN v{version} (source {git('rev-parse', '--short=10', 'HEAD')})"
        commits[repository] = repository.commit(staged, message)
    for repository, staged in left.items():
        say(f"Verifying commit {commits[repository]} ...")
        verify(repository.repo_id, commits[repository], staged, expected[repository], token)
    for repository in left:
        repository.tag(version, commits[repository])


def stage_benchmarks(staged, arguments, token):
    """Adds the files of `.eval_results/` to those of the release."""
    source = f"{constants.ENDPOINT}/{arguments.repo_id}/blob/v{arguments.version}/{hub_name(EVAL_RESULTS)}"
    card = staged[CARD].read_text(encoding="utf-8")
    for name, text in benchmark_files(card, HfApi(token=token), source).items():
        staged[name] = staged[CARD].parent / name
        staged[name].parent.mkdir(exist_ok=True)
        staged[name].write_text(text, encoding="utf-8")
