"""A pytest plugin: records how a run of all tests ended, and at which commit, which `release.py` asks for."""

import json
import shutil
import subprocess

import pytest

NARROWING = ("keyword", "markexpr", "deselect", "lf", "ignore", "ignore_glob", "stepwise", "collectonly")
_before = pytest.StashKey()


def pytest_sessionstart(session):
    session.config.stash[_before] = _state(session.config)


def pytest_sessionfinish(session, exitstatus):
    """Writes `out/test_results.json`, unless only some of the tests were asked for."""
    config, reporter = session.config, session.config.pluginmanager.get_plugin("terminalreporter")
    narrowed = any(config.getoption(name, None) for name in NARROWING)
    all_of_them = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not narrowed
    if not all_of_them or reporter is None or hasattr(config, "workerinput") or not shutil.which("git"):
        return
    before = config.stash[_before]
    record = {
        "commit": before[0],
        "clean": not before[1] and _state(config) == before,  # what was tested is what was there all the time
        "exit_status": int(exitstatus),
        "passed": len(reporter.stats.get("passed", [])),
        "failed": len(reporter.stats.get("failed", [])) + len(reporter.stats.get("error", [])),
    }
    folder = config.rootpath / "out"
    folder.mkdir(exist_ok=True)
    (folder / "test_results.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _state(config):
    """`(commit, changes)` of the work tree."""

    def git(*arguments):
        command = ["git", "-C", config.rootpath, *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip()

    return (git("rev-parse", "HEAD"), git("status", "--porcelain")) if shutil.which("git") else ("", "no git")
