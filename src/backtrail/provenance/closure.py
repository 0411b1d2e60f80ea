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
    """The files of these modules relative to the package's folder, sorted, with the data files (templates, tables) that lie beside them."""
    files = set()
    for module in modules:
        path = Path(*module.split(".")[1:])
        if not (PACKAGE_FOLDER / path).is_dir():
            files.add(path.with_suffix(".py"))
            continue
        files.add(path / "__init__.py")
        files |= {
            f.relative_to(PACKAGE_FOLDER) for f in (PACKAGE_FOLDER / path).rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc")
        }
    # The package's own folder holds every package's data files; they belong to the inner one.
    return sorted(f for f in files if f.suffix == ".py" or ".".join(["backtrail", f.parts[0]]) in modules)


def code_digests(module: str) -> dict[str, str]:
    """sha256 of each file that `module` stands on, by its path relative to the package's folder."""
    return {file.as_posix(): file_digest(PACKAGE_FOLDER / file) for file in source_files(closure(module))}
