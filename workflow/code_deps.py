"""Write each stage's code into dvc.yaml: `make deps`. The lines under `deps:` that begin with ${code} are replaced, nothing else is
touched.

A stage's code is what its command imports, so a changed line reruns the stages that stand on it and no others. Suites of images get a copy
of the file; a suite without images (no `data` in its params.yaml) has a pipeline of its own, and keeps its stages.
"""

import re
import sys
from pathlib import Path

import yaml

from backtrail.ledger.closure import closure, source_files

ROOT = Path(__file__).resolve().parents[1]


def code_lines(command: str) -> list[str]:
    """The deps of a stage that runs `python -m backtrail COMMAND`: its module's imports and the entry point's.

    Each file by itself and no folder: DVC heeds .dvcignore in its own project only, so that a suite below `suites/` would hash the compiled
    files in the folder too, which are others with every checkout.
    """
    modules = {*closure("backtrail.__main__"), *closure(f"backtrail.cli.{command.replace('-', '_')}")}
    return [f"      - ${{code}}/{path.as_posix()}\n" for path in source_files(modules)]


def rewrite(text: str) -> str:
    """dvc.yaml with the code of every stage as it is now."""
    out: list[str] = []
    command = None
    for line in text.splitlines(keepends=True):
        if line.startswith("      - ${code}/"):
            continue
        out.append(line)
        if found := re.match(r"    cmd: python -m backtrail (\S+)", line):
            command = found[1]
        if line == "    deps:\n" and command:
            out += code_lines(command)
    return "".join(out)


def has_own_pipeline(suite: Path) -> bool:
    """Whether the suite in this folder has no images, and so none of the stages that the others share."""
    return "data" not in yaml.safe_load((suite / "params.yaml").read_text())


def pipelines(root: Path = ROOT) -> dict[Path, str]:
    """The dvc.yaml of the repository and of each suite, and what should stand in it."""
    shared = rewrite((root / "dvc.yaml").read_text())
    copies = {
        path: rewrite(path.read_text()) if has_own_pipeline(path.parent) else shared for path in sorted(root.glob("suites/*/dvc.yaml"))
    }
    return {root / "dvc.yaml": shared, **copies}


def main(check: bool) -> int:
    """Rewrite the files, or with `check` say which are not as they should be. Returns the exit code."""
    stale = []
    for path, wanted in pipelines().items():
        if path.read_text() != wanted:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(wanted)
    print(f"{'stale' if check else 'rewritten'}: {', '.join(stale) or 'nothing'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
