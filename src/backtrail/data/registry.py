"""What is known of an outside file: the types of the registry in `sources`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A Debian package that carries the files of a source, in `folder` (absolute), under their names as served."""

    name: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A Python package that carries the files of a source, in `folder` (relative to where packages are installed), under their names."""

    name: str
    version: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class File:
    """One file as it is kept, and as it is served.

    `sha256` and `size_bytes` describe the file as it is kept: after decompression if `compression` is set, because the compressed
    bytes of one content differ between distributors. `served_md5` and `served_bytes` describe the compressed or plain file at the
    addresses. `sha256=None` means unknown to us: what is found is recorded and can be pinned in the parameters.
    """

    name: str
    addresses: tuple[str, ...] = ()
    sha256: str | None = None
    size_bytes: int | None = None
    compression: Literal["gzip"] | None = None
    served_md5: str | None = None
    served_bytes: int | None = None

    @property
    def served_name(self) -> str:
        """The file's name at the addresses and in a folder of files supplied by hand."""
        return f"{self.name}.gz" if self.compression == "gzip" else self.name


@dataclass(frozen=True, kw_only=True)
class Source:
    """A thing from outside: its files, and what a person should know before using it.

    `date` is when it was published, as far as known; `by_hand` says how to get the files where no address may be fetched by a program;
    `token_variable` names the environment variable whose token the addresses may need (its value is sent and never kept).
    """

    name: str
    purpose: str
    files: tuple[File, ...]
    licence: str
    date: str
    homepage: str
    package: Packaged | None = None
    wheel: Wheel | None = None
    by_hand: str | None = None
    token_variable: str | None = None
