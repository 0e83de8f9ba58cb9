"""What the Hub of the tests stores: repositories, their commits, branches and tags, and objects, in a folder."""

import hashlib
import json
import re
import threading
from pathlib import Path


class HubError(Exception):
    def __init__(self, status, message, code=None, **more):
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class Store:
    """Repositories and objects in a folder."""

    def __init__(self, folder):
        self.folder, self.lock = Path(folder), threading.RLock()
        (self.folder / "objects").mkdir(parents=True, exist_ok=True)

    def put(self, content):
        oid = hashlib.sha256(content).hexdigest()
        (self.folder / "objects" / oid).write_bytes(content)
        return oid

    def get(self, oid):
        path = self.folder / "objects" / oid
        return path.read_bytes() if path.exists() else None

    def _path(self, repo_id):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
            raise HubError(404, "no such repository", "RepoNotFound")
        return self.folder / "repos" / f"{repo_id}.json"

    def create(self, repo_id, private):
        path = self._path(repo_id)
        if path.exists():
            raise HubError(409, "You already created this model repo", url=f"/{repo_id}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.save(repo_id, {"private": private, "commits": {}, "branches": {}, "tags": {}})
        self.commit(
            repo_id, "main", "initial commit", {".gitattributes": self.entry(b"*.onnx filter=lfs\n")}, [], None
        )

    def load(self, repo_id):
        path = self._path(repo_id)
        if not path.exists():
            raise HubError(404, "Repository not found", "RepoNotFound")
        return json.loads(path.read_text("utf-8"))

    def save(self, repo_id, repo):
        self._path(repo_id).write_text(json.dumps(repo), "utf-8")

    def entry(self, content, lfs=False):
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"oid": git, "sha256": self.put(content), "size": len(content), "lfs": lfs}

    def resolve(self, repo, revision):
        for names in (repo["branches"], repo["tags"], {sha: sha for sha in repo["commits"]}):
            if revision in names:
                return names[revision]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, repo_id, branch, message, additions, deletions, parent):
        repo = self.load(repo_id)
        head = repo["branches"].get(branch)
        if head is None and repo["commits"]:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        if parent is not None and parent != head:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo["commits"][head]["files"]) if head else {}
        for path in deletions:
            if files.pop(path, None) is None:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        files.update(additions)
        made = {"parent": head, "message": message, "files": files}
        sha = hashlib.sha1(json.dumps(made, sort_keys=True).encode()).hexdigest()
        repo["commits"][sha] = made
        repo["branches"][branch] = sha
        self.save(repo_id, repo)
        return sha
