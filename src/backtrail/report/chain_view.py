"""The chains behind the page's numbers in HTML: one tree for each set of files that some number was computed from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from backtrail.ledger.chains import Branch, Chains, Link
from backtrail.ledger.numbers import Number


@dataclass(frozen=True)
class Tree:
    """One chain: its anchor, its heading and its branches."""

    anchor: str
    title: str
    branches: list[Branch]


@dataclass
class Book:
    """Hands out anchors of chains and of files while the page's tables are made, and holds the trees at the end."""

    chains: Chains | None = None
    _chains: dict[tuple[str, ...], str] = field(default_factory=dict)
    _files: dict[str, str] = field(default_factory=dict)

    def rows(self, file: str) -> list[dict[str, Number]]:
        """The numbers of a table, row by row; none where the page is made without chains."""
        return self.chains.rows(file) if self.chains else []

    def values(self, file: str) -> dict[str, Number]:
        """The numbers of a metric file, by `PLACE,NAME`."""
        return self.chains.values(file) if self.chains else {}

    def inputs(self, file: str) -> list[str]:
        """What the stage read that made a file."""
        return list(self.chains.link(file).sources) if self.chains else []

    def anchor(self, sources: Iterable[str]) -> str:
        """The anchor of the chain below these files; empty if there are none."""
        key = tuple(dict.fromkeys(sources))
        return self._chains.setdefault(key, f"chain-{len(self._chains)}") if key and self.chains else ""

    def trees(self) -> list[Tree]:
        """Every chain that an anchor was handed out for."""
        return [self._tree(anchor, key) for key, anchor in self._chains.items()]

    def files(self) -> list[tuple[str, Link]]:
        """(anchor, link) of every file in a tree, by path; to be asked after `trees`."""
        links = self.chains.links if self.chains else {}
        return [(anchor, links[path]) for path, anchor in sorted(self._files.items())]

    def file_anchor(self, path: str) -> str:
        """The anchor of a file in the page's list of files."""
        return self._files.setdefault(path, f"file-{len(self._files)}")

    def _tree(self, anchor: str, key: tuple[str, ...]) -> Tree:
        assert self.chains is not None
        more = f" and {len(key) - 1} more" if len(key) > 1 else ""
        branches = self.chains.tree(key)
        for path in _paths(branches):
            self.file_anchor(path)
        return Tree(anchor, f"{key[0]}{more}", branches)


def _paths(branches: list[Branch]) -> Iterator[str]:
    for branch in branches:
        yield branch.link.path
        yield from _paths(branch.branches)


def facts_in_words(link: Link) -> list[str]:
    """What is told of a link beside its digest, a phrase each."""
    found = link.facts
    said = [f"seed {seed}" for seed in found.get("seeds", [])]
    said += [f"node {row['node']} at step {row['step']}: tensors {row['tensors_sha256'][:12]}" for row in found.get("nodes", [])]
    said += [f"cost {found['cost_F']:,.0f} F"] if "cost_F" in found else []
    return said + [f"{file['name']}: sha256 {file['sha256'][:12]}" for file in found.get("files", [])]
