"""What the checks of the hash level share, and the first of them: the bytes on disk against dvc.lock."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from backtrail.audit.findings import ABSENT, BROKEN, UNBACKED, Finding
from backtrail.layout import GATHERED
from backtrail.ledger.fingerprints import text_fingerprint
from backtrail.ledger.hashes import Digest, Hashes, hash_bytes
from backtrail.ledger.ledger import Entry, Ledger, Stage
from backtrail.ledger.repository import cached, code_at, file_at, root_of, silence

TEXT_BYTES = 1 << 22  # of longer files the lines that differ are not looked for


def brings(folder: Path) -> str:
    """What brings an output that is not here: `dvc pull` where the suite names a remote, or else making it."""
    configs = (folder / ".dvc" / name for name in ("config", "config.local"))
    named = any('remote "' in config.read_text(encoding="utf-8", errors="replace") for config in configs if config.is_file())
    return "dvc pull" if named else "dvc repro"


@dataclass
class Evidence:
    """A ledger beside the digests of the files that lie here.

    bad: outputs that are not what their stage made. commits: fingerprints of the code's files by commit. code: those of the files that lie
    here now; both as far as they have been asked for.
    """

    ledger: Ledger
    hashes: Hashes
    bad: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)

    @cached_property
    def git_is_silent(self) -> str | None:
        """Why git holds no commit of the suite; None if it does."""
        return silence(self.ledger.folder)

    @cached_property
    def fetches_more(self) -> str:
        """What brings objects that git left behind when the repository was cloned: commits, or files' contents; empty if it left none."""
        git = _shared(root_of(self.ledger.folder) or self.ledger.folder)
        if (git / "shallow").is_file():
            return "git fetch --unshallow"
        config = git / "config"
        partial = config.is_file() and "promisor" in config.read_text(encoding="utf-8", errors="replace")
        return "git fetch --refetch" if partial else ""

    def code_in(self, commit: str) -> dict[str, str]:
        """Fingerprints of the code's files in a commit that is held, by path in the folder of the code."""
        if commit not in self.commits:
            self.commits[commit] = code_at(self.ledger.folder, commit, self.ledger.code) or {}
        return self.commits[commit]

    def code_now(self, name: str) -> str:
        """The fingerprint of a source file in the suite's folder of code; empty if it is not there."""
        if name not in self.code:
            path = self.ledger.folder / self.ledger.code / name
            self.code[name] = text_fingerprint(name, path.read_bytes()) if path.is_file() else ""
        return self.code[name]


def _shared(root: Path) -> Path:
    """The folder of what all worktrees of a repository share: `.git`, or where the file of that name in a worktree or submodule leads."""
    git = root / ".git"
    if git.is_file():
        git = root / _pointed(git)
    return git / _pointed(git / "commondir") if (git / "commondir").is_file() else git


def _pointed(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace").removeprefix("gitdir:").strip()


def outputs(of: Evidence, stage: Stage) -> Iterator[Finding]:
    """A stage's files against the lock; those that differ are noted as bad."""
    for entry in stage.outs.values():
        for finding in _output(of, stage, entry):
            of.bad.add(entry.path)
            yield finding


def _output(of: Evidence, stage: Stage, entry: Entry) -> Iterator[Finding]:
    link, digest = f"{stage.name} -> {entry.path}", of.hashes.of(entry.path)
    if digest is None and entry.path in of.ledger.gathered:
        if hash_bytes(of.ledger.gathered[entry.path]).md5 != entry.md5:
            message = f"{entry.path} is not here, and {GATHERED} has another record than dvc.lock, whose md5 of it is {entry.md5}"
            yield Finding(BROKEN, entry.path, f"{GATHERED} -> {entry.path}", message, f"git checkout -- {GATHERED}")
    elif digest is None:
        # Without a record that names it too, dvc.lock alone says that there ever was such a file.
        recorded = entry.path in ((of.ledger.records[stage.name] or {}).get("outputs") or {}) or stage.keeps_books
        message = f"{entry.path} ({entry.size_bytes:,} bytes) is not here"
        verdict = ABSENT if recorded else UNBACKED
        yield Finding(verdict, entry.path, link, message, f"{brings(of.ledger.folder)} {stage.name}", entry.size_bytes, absent=True)
    elif digest.md5 != entry.md5:
        message = f"{entry.path}: md5 {digest.md5}, dvc.lock has {entry.md5} ({digest.size_bytes:,} and {entry.size_bytes:,} bytes)"
        yield Finding(BROKEN, entry.path, link, message + _where(of, entry, digest), _restores(of, stage, entry))
    elif digest.size_bytes != entry.size_bytes:
        message = f"{entry.path}: {digest.size_bytes:,} bytes, dvc.lock has {entry.size_bytes:,}: the lock was edited"
        yield Finding(BROKEN, entry.path, link, message)


def _restores(of: Evidence, stage: Stage, entry: Entry) -> str:
    """What brings an output back to what the lock names: `dvc checkout` passes over what git keeps and DVC does not."""
    committed = file_at(of.ledger.folder, "HEAD", entry.path)
    if committed is None:
        return f"dvc checkout {entry.path}"
    return f"git checkout -- {entry.path}" if hash_bytes(committed).md5 == entry.md5 else f"dvc repro {stage.name}"


def _where(of: Evidence, entry: Entry, digest: Digest) -> str:
    """Which file of a folder, or which lines of a text, differ, where an intact copy of the old state is at hand."""
    if entry.md5.endswith(".dir"):
        names = _differing_files(of, entry)
        return f"; differing: {', '.join(names)}" if names else ""
    if entry.size_bytes > TEXT_BYTES or digest.size_bytes > TEXT_BYTES:
        return ""
    old = cached(of.ledger.folder, entry.md5) or file_at(of.ledger.folder, "HEAD", entry.path)
    if old is None or hashlib.md5(old, usedforsecurity=False).hexdigest() != entry.md5:
        return ""
    try:
        before, now = old.decode().splitlines(), (of.ledger.folder / entry.path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return ""
    lines = [n for n, (a, b) in enumerate(zip(before, now, strict=False), start=1) if a != b]
    lines += range(min(len(before), len(now)) + 1, max(len(before), len(now)) + 1)
    return f"; differing in line {', '.join(map(str, lines[:5]))}{' ...' if len(lines) > 5 else ''}"


def _differing_files(of: Evidence, entry: Entry) -> list[str]:
    listing = cached(of.ledger.folder, entry.md5)
    if listing is None:
        return []
    expected = {f"{entry.path}/{item['relpath']}": item["md5"] for item in json.loads(listing)}
    found = {name: digest.md5 for name in of.hashes.files(entry.path) if (digest := of.hashes.of(name))}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
