"""Fingerprints of code: blind to what no interpreter reads, and to nothing else."""

import ast
import io
import os
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from backtrail.ledger.fingerprints import (
    COMMENT_OR_STRING,
    EMPTY,
    PACKAGE_FOLDER,
    closure_files,
    code_text,
    command_digest,
    commands,
    text_fingerprint,
)

SOURCES = sorted(PACKAGE_FOLDER.rglob("*.py"))
CODE = 'X = """a # b\n\n  c  \n"""\n\n\ndef f(x):\n    return f"{x:#x}" + \'#\'\n'

# Nested quotes, a match statement, a lambda in a format, bytes, a line continued: what versions read by other parsers.
LATER_SYNTAX = (
    "def g(x):\n    match x:\n        case {'a': [1, *rest]}:  # a comment\n            return f\"{rest!r:>{len('#')}}\" '#'\n"
    "    return f'{(lambda y: y)(x)}' \\\n        '#' # end\n"
)


@pytest.mark.parametrize(
    "edited",
    [
        '"""A docstring."""\n' + CODE,
        CODE.replace("\n\n\ndef", "\n# a comment\n\ndef"),
        CODE.replace("def f(x):", 'def f(x):  # a comment, with "quotes"\n    """Doc\n\n    string."""\n\n    # more'),
        CODE.replace("+ '#'\n", "+ '#'   \n\n\n"),
        CODE.replace("\n", "\r\n"),
    ],
    ids=["module docstring", "comment", "comment and docstring of a function", "blanks", "line ends"],
)
def test_what_no_interpreter_reads_is_left_out(edited: str) -> None:
    assert text_fingerprint("a.py", edited.encode()) == text_fingerprint("a.py", CODE.encode())


@pytest.mark.parametrize(
    "edited",
    [
        CODE.replace("a # b", "a # c"),
        CODE.replace("\n\n  c  \n", "\n  c  \n"),
        CODE.replace("  c  \n", "  c\n"),
        CODE.replace("#x}", "#o}"),
        CODE.replace("'#'", "'##'"),
        CODE + "f(1)\n",
    ],
    ids=["comment sign in a string", "blank line in a string", "blanks in a string", "format", "string", "a line"],
)
def test_everything_else_counts(edited: str) -> None:
    assert text_fingerprint("a.py", edited.encode()) != text_fingerprint("a.py", CODE.encode())


def test_a_digest_is_the_same_on_every_version_of_python() -> None:
    """Written down once: each version that runs the tests has to come to it, since the syntax of f-strings, which 3.12 reads anew, is found
    by the module itself."""
    assert text_fingerprint("a.py", CODE.encode()) == "6eb4c15062441d5a0edb5dd86dde0fdb8299dee8a32f79ec7929deb84bdc4123"
    assert text_fingerprint("a.py", LATER_SYNTAX.encode()) == "ee85e79b932ee1be1207ea6f8bedb449c2957061d551cf6fd15998a8f885cb9d"


def test_strings_and_comments_are_found_where_python_finds_them() -> None:
    """Against `tokenize`; from Python 3.12 on its f-strings come in pieces, so comments alone are compared."""
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        starts = [0, *(i + 1 for i, c in enumerate(source) if c == "\n")]
        kinds = {tokenize.COMMENT} | ({tokenize.STRING} if sys.version_info < (3, 12) else set())
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type in kinds]
        ends = {starts[t.end[0] - 1] + t.end[1] for t in tokens}
        found = {m.end() for m in COMMENT_OR_STRING.finditer(source) if sys.version_info < (3, 12) or m[0][0] == "#"}
        assert found == ends, path


def test_what_is_left_is_the_same_program() -> None:
    """Compiled without docstrings, every source gives the code that it gives without its comments."""
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        trees = [ast.parse(source), ast.parse(_with_bodies(code_text(source)))]
        for node in ast.walk(trees[0]):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
        assert ast.dump(trees[0]) == ast.dump(trees[1]), path


def _with_bodies(text: str) -> str:
    """A class or function whose whole body was its docstring has none left: `pass` makes it Python again."""
    lines = text.split("\n")
    out = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        out.append(line)
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith(("class ", "def ")) and line.endswith(":") and len(after) - len(after.lstrip()) <= indent:
            out.append(" " * (indent + 4) + "pass")
    return "\n".join(out)


def test_a_file_that_says_nothing_but_a_docstring_is_empty() -> None:
    assert text_fingerprint("__init__.py", b'"""Only words."""\n') == EMPTY


def test_the_closure_holds_what_python_really_loads() -> None:
    """Against the interpreter: the modules of this package in sys.modules after the command's import, but for the entry points."""
    for command in ("figures", "score-distillation"):
        module = f"backtrail.stages.{command.replace('-', '_')}"
        code = f"import sys, {module}; print(*[m for m in sys.modules if m.split('.')[0] == 'backtrail'])"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        files = {Path(sys.modules[m].__file__ or "") if m in sys.modules else _file(m) for m in loaded} - {PACKAGE_FOLDER / "__init__.py"}
        assert {f.relative_to(PACKAGE_FOLDER) for f in files} == {f for f in closure_files(command) if f.suffix == ".py"}, command


def _file(module: str) -> Path:
    path = PACKAGE_FOLDER.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_templates_are_code_of_the_page() -> None:
    assert "report/templates/index.html" in {f.as_posix() for f in closure_files("report")}


def test_fingerprinting_fetching_and_the_report_load_no_torch() -> None:
    modules = [f"backtrail.stages.{name}" for name in ("code", "fetch", "fetch_teacher", "fetch_inception", "tables", "figures", "report")]
    code = f"import importlib, sys\nfor name in {modules}:\n    importlib.import_module(name)\n    print(name, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} False" for name in modules]


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    return {command: command_digest(command) for command in commands()}


def digests_of_copy(folder: Path) -> dict[str, str]:
    code = "from backtrail.ledger.fingerprints import *; print({c: command_digest(c) for c in commands()})"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE_FOLDER, tmp_path / "backtrail", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_checkout_with_other_line_ends_and_comments_everywhere_has_the_same_digests(copy: Path, digests: dict[str, str]) -> None:
    for path in copy.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace("\ndef ", "\n# a comment\n\ndef ")
        path.write_bytes((text + "\n# the end\n").replace("\n", "\r\n").encode())
    assert digests_of_copy(copy) == digests


def test_a_new_command_or_version_changes_no_stage(copy: Path, digests: dict[str, str]) -> None:
    main, version = copy / "backtrail/cli/__init__.py", copy / "backtrail/__init__.py"
    main.write_text(
        main.read_text(encoding="utf-8").replace("COMMANDS = {\n", 'COMMANDS = {\n    "new": "something new",\n'), encoding="utf-8"
    )
    version.write_text(version.read_text(encoding="utf-8").replace('"0.', '"9.'), encoding="utf-8")
    assert digests_of_copy(copy) == digests


@pytest.mark.parametrize(
    ("file", "touched", "untouched"),
    [
        (
            "parameters/score_distillation.py",
            {"path", "score-distillation", "mismatch"},
            {"trajectory-distillation", "trajectories", "teacher"},
        ),
        ("parameters/trajectory_distillation.py", {"trajectory-distillation", "trajectories"}, {"score-distillation", "path", "teacher"}),
        ("report/templates/page.css", {"report"}, {"figures", "tables"}),
        ("metrics/pairs.py", {"metrics", "reference"}, {"teacher", "samples"}),
    ],
)
def test_an_edit_touches_the_commands_that_stand_on_it(
    copy: Path, digests: dict[str, str], file: str, touched: set, untouched: set
) -> None:
    path = copy / "backtrail" / file
    path.write_text(path.read_text(encoding="utf-8") + "\nANSWER = 42\n", encoding="utf-8")
    now = digests_of_copy(copy)
    changed = {command for command in digests if digests[command] != now[command]}
    assert touched <= changed and not untouched & changed
