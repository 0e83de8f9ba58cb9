"""A pytest plugin: records how a run of all tests ended, and at which commit, which `release.py` asks for."""

import json
import shutil
import subprocess

import pytest


def pytest_sessionfinish(session, exitstatus):
    """Writes `out/test_results.json`, unless only some of the tests were asked for."""
    config = session.config
    if hasattr(config, "workerinput"):  # a part of a run on several processes
        return
    narrowed = any(config.getoption(name, None) for name in ("keyword", "markexpr", "deselect", "lf", "collectonly"))
    if narrowed or config.args_source is not pytest.Config.ArgsSource.TESTPATHS or not shutil.which("git"):
        return
    stats = config.pluginmanager.get_plugin("terminalreporter").stats
    record = {
        "commit": _git(config.rootpath, "rev-parse", "HEAD"),
        "clean": not _git(config.rootpath, "status", "--porcelain"),
        "exit_status": int(exitstatus),
        "passed": len(stats.get("passed", [])),
        "failed": len(stats.get("failed", [])) + len(stats.get("error", [])),
    }
    folder = config.rootpath / "out"
    folder.mkdir(exist_ok=True)
    (folder / "test_results.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _git(folder, *arguments):
    return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, encoding="utf-8").stdout.strip()
