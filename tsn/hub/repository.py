"""The Hub's side of a release: everything in one commit, and a tag for it that is never moved."""

import hashlib

import semver
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from tsn.hub import client
from tsn.hub.client import HubError

_KEPT = {".gitattributes"}  # the Hub's own file: says which files are stored as LFS objects


class Repository:
    """A model repository on the Hub, as a release sees it.

    Every method raises [`HubError`] if the Hub refuses or cannot be reached, after retrying what can be retried.

    Args:
        repo_id: `"ORG/NAME"`.
        branch: The branch that releases are committed to.
        token: A user access token, or None for the one of `HF_TOKEN` or `hf auth login`.
    """

    def __init__(self, repo_id, branch="main", token=None):
        self.repo_id, self.branch, self._api = repo_id, branch, HfApi(token=token)

    def _ask(self, method, **arguments):
        return client.ask(getattr(self._api, method), repo_id=self.repo_id, **arguments)

    def references(self):
        """`(branches, tags)`, each a dict of names to commits; empty if the repository does not exist."""
        try:
            refs = self._ask("list_repo_refs")
        except HubError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError):
                return {}, {}
            raise
        return tuple({ref.name: ref.target_commit for ref in kind} for kind in (refs.branches, refs.tags))

    def check_version(self, version, tags):
        """The commit that the version's tag names, or None if the version is greater than all released ones.

        Raises:
            ValueError: it is not tagged and not greater.
        """
        if f"v{version}" in tags:
            return tags[f"v{version}"]
        last = last_version(tags)
        if last is not None and semver.Version.parse(version) <= semver.Version.parse(last):
            raise ValueError(f"{self.repo_id} has v{last} already: --version must be greater, {version} is not")
        return None

    def create(self, private):
        """Creates the repository and the branch if they do not exist.

        Raises:
            HubError: a private one was asked for and it is public.
        """
        self._ask("create_repo", private=private or None, exist_ok=True)
        if private and not self._ask("model_info", timeout=client.TIME_LIMIT).private:
            raise HubError(f"{self.repo_id} is public, and --private was asked for: make it private first")
        if self.branch != "main" and self.branch not in self.references()[0]:
            self._ask("create_branch", branch=self.branch, exist_ok=True)

    def _tree(self, commit):
        """The commit's files, names to hashes: git's, or the SHA-256 of an LFS object."""
        entries = self._ask("list_repo_tree", revision=commit, recursive=True)
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
        return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}

    def holds(self, files, commit):
        """Whether a commit holds exactly these files, byte by byte."""
        remote = self._tree(commit)
        if remote.keys() - _KEPT != files.keys():
            return False
        return all(remote[name] in _hashes(path) for name, path in files.items())

    def commit(self, files, message):
        """Makes one commit after which the branch holds exactly these files, unless it does already.

        Files of the last release that this one lacks are deleted; any other file there is an error.

        Args:
            files: Names on the Hub to paths.

        Returns:
            str: the commit's hash.
        """
        branches, tags = self.references()
        head = branches.get(self.branch)
        if head is not None and self.holds(files, head):
            return head
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()
        ]
        if head is not None:
            gone = sorted(self._tree(head).keys() - _KEPT - files.keys())
            last = last_version(tags)
            foreign = sorted(set(gone) - self._tree(tags[f"v{last}"]).keys() if last else gone)
            if foreign:
                raise HubError(
                    f"{self.repo_id} holds files that no release put there ({', '.join(foreign[:5])}"
                    f"{', ...' if len(foreign) > 5 else ''}): delete them there, or is it another repository?"
                )
            operations.extend(CommitOperationDelete(path_in_repo=name) for name in gone)
        try:
            created = self._ask(
                "create_commit",
                operations=operations,
                commit_message=message,
                revision=self.branch,
                parent_commit=head,  # the Hub refuses if someone else commits in between
            )
            commit = created.oid
        except HubError:
            # The commit may exist although the answer was lost.
            commit = self.references()[0].get(self.branch)
            if commit in (None, head) or not self.holds(files, commit):
                raise
        if not self.holds(files, commit):
            raise HubError(f"commit {commit} does not hold what was sent; it is not tagged: run the release again")
        return commit

    def tag(self, version, commit):
        """Tags the commit, then asks the Hub which commit the tag names.

        Raises:
            HubError: the tag names another one.
        """
        name = f"v{version}"
        if name not in self.references()[1]:
            try:
                self._ask("create_tag", tag=name, revision=commit)
            except HubError:
                if name not in self.references()[1]:  # created by a request whose answer was lost
                    raise
        named = self.references()[1].get(name)
        if named != commit:
            raise HubError(f"{name} names {named}, not {commit}, and a tag is never moved: choose a greater --version")


def last_version(tags):
    """The greatest semantic version among tags such as `v1.2.0`, without the `v`, or None."""
    versions = [name[1:] for name in tags if name[:1] == "v" and semver.Version.is_valid(name[1:])]
    return max(versions, key=semver.Version.parse, default=None)


def _hashes(path):
    """What the Hub may call a file: its git hash, or the SHA-256 of an LFS object."""
    content = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return git, hashlib.sha256(content).hexdigest()
