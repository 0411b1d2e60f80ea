"""The chains behind the page's numbers as trees: one for each set of files that some number was computed from, however many share it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from backtrail.ledger.chains import Chains, Link
from backtrail.ledger.numbers import Number


@dataclass(frozen=True)
class Branch:
    """A link in a tree: its file's anchor, and what it was made from. Told once: further down it is named and not unfolded again."""

    link: Link
    anchor: str
    told: bool
    branches: list["Branch"]


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
        return list(self.chains.add(file).sources) if self.chains else []

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

    def _tree(self, anchor: str, key: tuple[str, ...]) -> Tree:
        told: set[str] = set()
        more = f" and {len(key) - 1} more" if len(key) > 1 else ""
        return Tree(anchor, f"{key[0]}{more}", [self._branch(path, told) for path in key])

    def _branch(self, path: str, told: set[str]) -> Branch:
        assert self.chains is not None
        link, known = self.chains.add(path), path in told
        told.add(path)
        branches = [] if known else [self._branch(source, told) for source in link.sources]
        return Branch(link, self._files.setdefault(path, f"file-{len(self._files)}"), known and bool(link.sources), branches)
