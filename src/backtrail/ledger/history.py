"""What git's history has held under one path: every version that a commit reachable from the present one has, read as objects alone.

Like all that is asked of git here it goes through `repository.objects`: nothing is checked out, no configuration of the suite is executed.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backtrail.ledger.repository import FILE_MODES, OBJECT_NAME, REVISION, TREE, objects, root_of

AHEAD = 64  # ancestors that are asked for at once with each commit, so that a straight history of thousands takes few processes
MAX_COMMITS = 20_000
COMMITTED = re.compile(rb"^committer .* (\d{1,12}) [-+]\d{4}$", re.MULTILINE)


@dataclass(frozen=True)
class Commit:
    """A commit that git holds: its object name, its parents' (held or not), its tree's, and when it was made, in seconds since 1970."""

    name: str
    parents: tuple[str, ...]
    tree: str
    time_s: int


@dataclass(frozen=True)
class History:
    """Commits by name, the newest first, with what each has under the path (None where it has nothing there).

    head: the present commit's name, empty where there is none. whole: whether every ancestor is held, which a shallow clone does not.
    """

    head: str
    commits: dict[str, Commit]
    contents: dict[str, bytes | None]
    whole: bool


def history(folder: Path, path: str) -> History:
    """The history of a file, its path seen from `folder`; empty and not whole where there is no repository or no commit."""
    root = root_of(folder)
    if root is None:
        return History("", {}, {}, False)
    head, commits, whole = _reachable(root)
    place = os.path.relpath(os.path.normpath(folder.resolve() / path), root).split("/")
    return History(head, commits, _contents(root, commits, place), whole)


def commit_at(folder: Path, revision: str) -> Commit | None:
    """The commit that a revision of the suite's repository names (HEAD, a branch, a tag, an object name); None if it holds none such."""
    root, asked = root_of(folder), f"{revision}^{{commit}}"
    found = objects(root, [asked]) if root is not None and REVISION.fullmatch(revision) else {}
    return _commit(*found[asked]) if asked in found else None


def commit_times(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """When commits were made, in seconds since 1970, of those that git holds, by their whole object names."""
    root = root_of(folder)
    asked = [name for name in names if OBJECT_NAME.fullmatch(name)]
    if root is None or not asked:
        return {}
    found = (_commit(name, *of[1:]) for name, of in objects(root, asked).items())
    return {commit.name: commit.time_s for commit in found if commit is not None}


def _commit(name: str, kind: str, content: bytes) -> Commit | None:
    head = content.partition(b"\n\n")[0]
    lines = head.decode("utf-8", errors="replace").splitlines()
    made = COMMITTED.search(head)
    if kind != "commit" or not lines or not lines[0].startswith("tree ") or made is None:
        return None
    parents = tuple(line[7:] for line in lines[1:] if line.startswith("parent "))
    return Commit(name, parents, lines[0][5:], int(made[1]))


def _reachable(root: Path) -> tuple[str, dict[str, Commit], bool]:
    """The present commit's name, every commit that it stands on and itself, and whether none is missing."""
    found: dict[str, Commit] = {}
    waiting, whole = ["HEAD"], False
    while waiting and len(found) < MAX_COMMITS:
        asked = [f"{name}~{n}^{{commit}}" for name in waiting for n in range(AHEAD)]
        for name, kind, content in objects(root, asked).values():
            if (commit := _commit(name, kind, content)) is not None:
                found[name] = commit
        parents = dict.fromkeys(parent for commit in found.values() for parent in commit.parents)
        wanted = [parent for parent in parents if parent not in found]
        held = objects(root, wanted)
        waiting, whole = [parent for parent in wanted if parent in held], bool(found) and all(parent in held for parent in wanted)
    head = next(iter(found), "")  # the first that was asked for
    return head, dict(sorted(found.items(), key=lambda item: -item[1].time_s)), whole and not waiting


def _contents(root: Path, commits: dict[str, Commit], place: list[str]) -> dict[str, bytes | None]:
    """What lies at a path in each commit: one question to git for each part of the path, however many commits there are."""
    at: dict[str, str] = {name: commit.tree for name, commit in commits.items()}
    for i, part in enumerate(place):
        trees = objects(root, at.values())
        modes = FILE_MODES if i == len(place) - 1 else (TREE,)
        entries = {name: _entry(trees[tree][2], part, len(tree) // 2) for name, tree in at.items() if tree in trees}
        at = {name: entry[1] for name, entry in entries.items() if entry is not None and entry[0] in modes}
    files = objects(root, at.values())
    return {name: files[at[name]][2] if name in at and at[name] in files else None for name in commits}


def _entry(tree: bytes, name: str, width: int) -> tuple[str, str] | None:
    """(mode, object name) of one entry of a tree, whose object names have `width` bytes; None if it has none of that name."""
    for mode, entry, of in _entries(tree, width):
        if entry == name.encode():
            return mode, of
    return None


def _entries(tree: bytes, width: int) -> Iterator[tuple[str, bytes, str]]:
    place = 0
    while (end := tree.find(b"\0", place)) >= 0:
        mode, _, entry = tree[place:end].partition(b" ")
        yield mode.decode(errors="replace"), entry, tree[end + 1 : end + 1 + width].hex()
        place = end + 1 + width
