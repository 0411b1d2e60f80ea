"""What git holds of a suite, read so that nothing of the suite's own can act on whoever reads it.

The suite may be somebody else's. So git is asked in one way only: `git cat-file --batch`, which touches no working tree, runs no hook,
filter, monitor, pager or external diff, and gets object names on its standard input, where no name can be an option. It runs without the
user's and the system's configuration, without replaced objects and grafts, and without any network. What it answers is held against the
name that it was asked for: an object's name is the digest of its content, so a commit that git does not really hold cannot be made up.
"""

import functools
import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from backtrail.ledger.fingerprints import text_fingerprint

OBJECT_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
REVISION = re.compile(r"[A-Za-z0-9_./@{}^~+-]{1,200}")  # a branch, a tag, HEAD~3; no colon, white space or control character
CLEAN_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",  # a partial clone would ask its server for what it lacks
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
}
# What a repository's own configuration could have executed; none of it is reached by `cat-file`, and all of it is switched off as well.
CLEAN_OPTIONS = ("core.fsmonitor=false", f"core.hooksPath={os.devnull}", f"core.attributesFile={os.devnull}", "core.sshCommand=false")
NAMELESS = "records of stages would name no commit, and an audit calls their numbers unbacked"
MAKE_HISTORY = "`git init`, `git add --all`, `git commit --message sources`"
TREE, FILE_MODES = "40000", ("100644", "100755")
Contents = dict[str, tuple[str, str, bytes]]  # by the name asked for: (object name, type, content)


def root_of(folder: Path) -> Path | None:
    """The top of the repository that a folder lies in."""
    place = folder.resolve()
    return next((above for above in (place, *place.parents) if (above / ".git").exists()), None)


def objects(root: Path, names: Iterable[str]) -> Contents:
    """What git holds under these names; what it does not hold, or holds with another content than the name says, is left out."""
    asked = [name for name in dict.fromkeys(names) if not any(c.isspace() or not c.isprintable() for c in name)]
    return dict(_parsed(asked, _ask(root, asked)[0])) if asked else {}


def _ask(root: Path, asked: list[str]) -> tuple[bytes, str]:
    """What `cat-file --batch` writes, and the last line that it complains in."""
    options = [part for option in CLEAN_OPTIONS for part in ("-c", option)]
    command = ["git", f"--git-dir={root / '.git'}", "--no-replace-objects", "--no-pager", *options, "cat-file", "--batch"]
    environment = {name: of for name, of in os.environ.items() if not name.startswith("GIT_")} | CLEAN_ENVIRONMENT
    try:
        done = subprocess.run(command, cwd=root, env=environment, input="\n".join([*asked, ""]).encode(), capture_output=True)
    except OSError:
        return b"", "git is not installed"
    complaint = [line for line in done.stderr.decode(errors="replace").splitlines() if line.isprintable() and line]
    return done.stdout, complaint[-1] if complaint else ""


def silence(folder: Path) -> str | None:
    """Why git says nothing of a suite, as the rest of a sentence; None if it holds the present commit."""
    if (root := root_of(folder)) is None:
        return "the suite lies in no git repository"
    if _top(root, "HEAD") is not None:
        return None
    complaint = _ask(root, ["HEAD"])[1]
    return f"git finds no commit here ({complaint or 'none has been made yet, or .git is damaged'})"


def nameless(folder: Path) -> str | None:
    """Why git will name no commit for code in a folder, as a sentence with its cure; None if it names one.

    By git as the user has it, which a record asks too. So this is for one's own folder, not for a suite of somebody else.
    """
    try:
        command = ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    except OSError:
        return f"git is not installed: {NAMELESS}"
    if done.returncode == 0:
        return None
    if "dubious ownership" in done.stderr:
        root = root_of(folder) or folder
        cure = f"`git config --global --add safe.directory {root}`, or `chown` it"
        return f"git does not read {root}, which belongs to another user: {NAMELESS}; {cure}"
    if root_of(folder) is None:
        return f"there is no git history here, as in an archive of the sources: {NAMELESS}; {MAKE_HISTORY}"
    return f"git finds no commit here: {NAMELESS}; {MAKE_HISTORY}"


def _parsed(asked: list[str], text: bytes) -> Iterator[tuple[str, tuple[str, str, bytes]]]:
    """The objects in what `cat-file --batch` writes: a line with name, type and size, and the content, for each name in order."""
    for name in asked:
        head, _, text = text.partition(b"\n")
        parts = head.decode(errors="replace").split(" ")
        if len(parts) != 3 or not OBJECT_NAME.fullmatch(parts[0]):
            continue  # NAME missing, NAME ambiguous
        size = int(parts[2])
        content, text = text[:size], text[size + 1 :]
        digest = hashlib.sha1 if len(parts[0]) == 40 else hashlib.sha256
        if digest(f"{parts[1]} {size}\0".encode() + content).hexdigest() == parts[0]:
            yield name, (parts[0], parts[1], content)


@functools.lru_cache(maxsize=1024)
def _tree(root: Path, name: str) -> dict[str, tuple[str, str]]:
    """(mode, object name) of a tree's entries by their names; none if git does not hold it."""
    _, kind, content = objects(root, [name]).get(name, ("", "", b""))
    entries, width = {}, len(name) // 2
    while kind == "tree" and content:
        head, _, rest = content.partition(b"\0")
        mode, _, entry = head.decode(errors="replace").partition(" ")
        entries[entry], content = (mode, rest[:width].hex()), rest[width:]
    return entries


def _top(root: Path, commit: str) -> str | None:
    """The tree of a commit, named by its object name, a branch, a tag or a revision such as HEAD~3."""
    if not REVISION.fullmatch(commit):
        return None
    asked = f"{commit}^{{commit}}"
    _, kind, content = objects(root, [asked]).get(asked, ("", "", b""))
    return content[5 : content.index(b"\n")].decode() if kind == "commit" and content.startswith(b"tree ") else None


def _at(root: Path, commit: str, path: Path) -> tuple[str, str]:
    """(mode, object name) of a path in a commit; empty texts if it is not in it."""
    top = _top(root, commit)
    found = (TREE, top) if top else ("", "")
    for part in os.path.relpath(path, root).split("/") if path != root else ():
        found = _tree(root, found[1]).get(part, ("", "")) if found[0] == TREE else ("", "")
    return found


def holds(folder: Path, commit: str) -> bool:
    """Whether the repository of `folder` holds a commit, given by its whole object name."""
    root = root_of(folder)
    return root is not None and OBJECT_NAME.fullmatch(commit) is not None and _top(root, commit) is not None


def file_at(folder: Path, commit: str, path: str) -> bytes | None:
    """A file's bytes in a commit, its path seen from `folder`; None if it is not in it."""
    if (root := root_of(folder)) is None:
        return None
    mode, name = _at(root, commit, folder.resolve() / path)
    return objects(root, [name])[name][2] if mode in FILE_MODES and name in objects(root, [name]) else None


def _files(root: Path, name: str, above: str = "") -> Iterator[tuple[str, str]]:
    """(path, object name) of every file below a tree; links and submodules are none."""
    for entry, (mode, of) in _tree(root, name).items():
        if mode == TREE:
            yield from _files(root, of, f"{above}{entry}/")
        elif mode in FILE_MODES:
            yield f"{above}{entry}", of


def files_at(folder: Path, commit: str, path: str) -> dict[str, bytes] | None:
    """The files at or below a path in a commit, by their paths seen from `folder` (of one above it, `../..`); None if it is not there."""
    if (root := root_of(folder)) is None:
        return None
    mode, name = _at(root, commit, Path(os.path.normpath(folder.resolve() / path)))
    found = {path: name} if mode in FILE_MODES else {f"{path}/{f}": of for f, of in _files(root, name)} if mode == TREE else {}
    contents = objects(root, found.values())
    return {place: contents[of][2] for place, of in found.items() if of in contents} if mode else None


def tracked(folder: Path) -> list[str] | None:
    """The files below a folder that the present commit has, by their paths from it; None where there is no repository or no commit."""
    root = root_of(folder)
    mode, name = _at(root, "HEAD", folder.resolve()) if root is not None else ("", "")
    return [path for path, _ in _files(root, name)] if root is not None and mode == TREE else None


def code_at(folder: Path, commit: str, code: str) -> dict[str, str] | None:
    """The fingerprint of each file below `code` in a commit, by path below it; None if the commit or the code is not here."""
    found = files_at(folder, commit, code)
    return None if found is None else {(name := path[len(code) + 1 :]): text_fingerprint(name, of) for path, of in found.items()}


def changed_since_commit(folder: Path, paths: Iterable[str]) -> list[str] | None:
    """Of files at or below these paths, as the present commit has them, those that are otherwise here; None without a repository."""
    if (root := root_of(folder)) is None or _top(root, "HEAD") is None:
        return None
    found = {name: of for path in paths for name, of in (files_at(folder, "HEAD", path) or {}).items()}
    missing = [path for path in paths if (folder / path).is_file() and path not in found]
    return missing + [name for name, of in found.items() if _otherwise(folder / name, of)]


def _otherwise(path: Path, content: bytes) -> bool:
    return not path.is_file() or content not in ((now := path.read_bytes()), now.replace(b"\r\n", b"\n"))


def cached(folder: Path, md5: str) -> bytes | None:
    """What DVC's cache keeps under a digest, for the suite in `folder`; None if it is not there or is not what its name says."""
    if not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5):
        return None
    for place in (folder.resolve(), *folder.resolve().parents):
        path = place / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        if path.is_file():
            content = path.read_bytes()
            return content if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5.removesuffix(".dir") else None
    return None
