"""The code that a module stands on: itself and everything of this package that it imports, directly or not."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import grimp

import backtrail
from backtrail.artifacts import file_digest

PACKAGE_FOLDER = Path(backtrail.__file__).parent


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("backtrail", cache_dir=None)


def closure(module: str) -> list[str]:
    """Names of the modules, sorted; the packages that hold them count too, since Python runs their `__init__`."""
    modules = {module, *_graph().find_upstream_modules(module)}
    packages = {".".join(name.split(".")[:depth]) for name in modules for depth in range(1, name.count(".") + 1)}
    return sorted(modules | packages)


def source_files(modules: Iterable[str]) -> list[Path]:
    """The files of these modules relative to the package's folder, sorted, with the data files (templates, tables) that they name."""
    files = set()
    for module in modules:
        path = Path(*module.split(".")[1:])
        source = path / "__init__.py" if (PACKAGE_FOLDER / path).is_dir() else path.with_suffix(".py")
        files |= {source, *_data_files(source)}
    return sorted(files)


def _data_files(source: Path) -> set[Path]:
    """Files beside a module, or in a folder beside it, that are no Python and whose name or folder's name stands in its text."""
    beside = PACKAGE_FOLDER / source.parent
    folders = [beside, *(f for f in beside.iterdir() if f.is_dir() and not (f / "__init__.py").exists() and f.name != "__pycache__")]
    found = (f for folder in folders for f in folder.iterdir() if f.is_file() and f.suffix not in (".py", ".pyc"))
    text = (PACKAGE_FOLDER / source).read_text()
    return {f.relative_to(PACKAGE_FOLDER) for f in found if f'"{f.name}"' in text or (f.parent != beside and f'"{f.parent.name}"' in text)}


def code_digests(module: str) -> dict[str, str]:
    """sha256 of each file that `module` stands on, by its path relative to the package's folder."""
    return {file.as_posix(): file_digest(PACKAGE_FOLDER / file) for file in source_files(closure(module))}
