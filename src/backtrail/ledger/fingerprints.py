"""What a stage's code is: the text of everything that its command imports, without what no interpreter reads.

The stage `code` writes one digest a command to `code.yaml`, on which the command's stages depend. Comments, docstrings, blank lines and the
kind of line ends are left out of it, so that a better comment runs nothing again. They are cut by position, out of the text: what a
syntax tree prints differs between versions of Python, and a digest must not.
"""

import ast
import contextlib
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import grimp

import backtrail
from backtrail.artifacts import load_yaml
from backtrail.errors import UserError
from backtrail.layout import CODE_FILE

PACKAGE_FOLDER = Path(backtrail.__file__).parent
# Packages whose `__init__` says a version or lists commands: what a stage computes does not depend on them.
ENTRY_POINTS = {"backtrail", "backtrail.cli", "backtrail.__main__"}


@functools.cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("backtrail", cache_dir=None)


def module_of(command: str) -> str:
    """The module of a stage's command."""
    return f"backtrail.stages.{command.replace('-', '_')}"


@functools.cache
def closure_files(command: str) -> list[Path]:
    """The files that a stage's command stands on, relative to the package's folder, sorted; data files (templates, tables) too.

    Raises UserError if there is no such command.
    """
    module = module_of(command)
    if module not in _graph().modules:
        raise UserError(f"there is no stage command {command!r}: expected one of {', '.join(commands())}")
    modules = {module, *_graph().find_upstream_modules(module)}
    packages = {".".join(name.split(".")[:depth]) for name in modules for depth in range(1, name.count(".") + 1)}
    return source_files((modules | packages) - ENTRY_POINTS)


def commands() -> list[str]:
    """The stages' commands: the modules in `stages/` that define one."""
    files = sorted((PACKAGE_FOLDER / "stages").glob("*.py"))
    return [file.stem.replace("_", "-") for file in files if "\ndef command(" in file.read_text(encoding="utf-8")]


def source_files(modules: Iterable[str]) -> list[Path]:
    """The files of these modules relative to the package's folder, sorted, with the data files (templates, tables) that they name."""
    files = set()
    for module in modules:
        path = Path(*module.split(".")[1:])
        source = path / "__init__.py" if (PACKAGE_FOLDER / path).is_dir() else path.with_suffix(".py")
        files |= {source, *_data_files(source)}
    return sorted(files)


@functools.cache
def _data_files(source: Path) -> set[Path]:
    """Files beside a module, or in a folder beside it, that are no Python and whose name or folder's name stands in its text."""
    beside = PACKAGE_FOLDER / source.parent
    text = (PACKAGE_FOLDER / source).read_text(encoding="utf-8")
    return {f.relative_to(PACKAGE_FOLDER) for f in _data_beside(beside) if _names(text, f, beside)}


@functools.cache
def _data_beside(folder: Path) -> list[Path]:
    folders = [folder, *(f for f in folder.iterdir() if f.is_dir() and not (f / "__init__.py").exists() and f.name != "__pycache__")]
    return [f for place in folders for f in place.iterdir() if f.is_file() and f.suffix not in (".py", ".pyc")]


def _names(text: str, file: Path, folder: Path) -> bool:
    return f'"{file.name}"' in text or (file.parent != folder and f'"{file.parent.name}"' in text)


def code_fingerprints(command: str) -> dict[str, str]:
    """The fingerprint of each file that a command stands on, by its path relative to the package's folder; empty files are left out."""
    found = {file.as_posix(): file_fingerprint(PACKAGE_FOLDER / file) for file in closure_files(command)}
    return {name: fingerprint for name, fingerprint in found.items() if fingerprint != EMPTY}


def command_digest(command: str) -> str:
    """One digest of all the code of a command."""
    return digest_of(code_fingerprints(command))


def digest_of(fingerprints: dict[str, str]) -> str:
    """The digest of a command from the fingerprints of its files."""
    return hashlib.sha256("".join(f"{name} {of}\n" for name, of in sorted(fingerprints.items())).encode()).hexdigest()[:24]


@functools.cache
def file_fingerprint(path: Path) -> str:
    """The fingerprint of a source or data file."""
    return text_fingerprint(path.name, path.read_bytes())


@functools.cache  # files that are the same in many commits are parsed once
def text_fingerprint(name: str, content: bytes) -> str:
    """sha256 of a file's content as far as it decides anything; `name` tells Python from other files."""
    content = content.replace(b"\r\n", b"\n")
    if name.endswith(".py"):
        with contextlib.suppress(SyntaxError, UnicodeDecodeError, ValueError):  # no Python of this version: every byte counts
            content = code_text(content.decode("utf-8")).encode()
    return hashlib.sha256(content).hexdigest()


EMPTY = hashlib.sha256(b"").hexdigest()


# A comment, or a string of any kind. Strings with a prefix end where those without do, and no f-string of Python 3.11 holds its own quotes,
# so this finds the same places as `tokenize` (a test holds it to that), in a tenth of the time, on every version.
COMMENT_OR_STRING = re.compile(
    r'''#[^\n]*|"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\\n])*"''' + r"""|'{3}(?:\\.|[^\\])*?'{3}|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)


def code_text(source: str) -> str:
    """Python without comments, docstrings, blank lines and blanks at the ends of lines. What stands in other strings is untouched."""
    docstrings = set(_docstrings(source))
    pieces, kept_strings, end = [], [], 0
    for found in COMMENT_OR_STRING.finditer(source):
        pieces.append(source[end : found.start()])
        end = found.end()
        if found[0][0] != "#" and found.start() not in docstrings:
            pieces.append("\0")  # stands for the string while blanks are cut
            kept_strings.append(found[0])
    lines = (line.rstrip() for line in "".join([*pieces, source[end:]]).split("\n"))
    strings = iter(kept_strings)
    return re.sub("\0", lambda _: next(strings), "".join(f"{line}\n" for line in lines if line))


def _docstrings(source: str) -> Iterator[int]:
    """The place of the first character of every docstring."""
    starts = [0, *(found.end() for found in re.finditer("\n", source))]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False):
            text = node.body[0]
            start = starts[text.lineno - 1]
            # ast counts columns in bytes of UTF-8; before a docstring on its line there are blanks, as a rule.
            yield start + len(source[start : start + text.col_offset].encode()[: text.col_offset].decode(errors="ignore"))


def read_code_file(folder: str | Path = ".") -> dict[str, str]:
    """The digests in a suite's `code.yaml`, by command; none where it has not been written."""
    try:
        found = load_yaml((Path(folder) / CODE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def check_code_file(command: str) -> None:
    """Raises UserError if `code.yaml` is there and names other code for this command than the code that is about to run, or has run."""
    known = read_code_file()
    if known and known.get(command) != (now := command_digest(command)):
        raise UserError(
            f"{CODE_FILE} has {known.get(command, 'nothing')} for the code of {command}, and the code is {now}: run `dvc repro code` first"
        )
