"""Commands of DVC and Snakemake, each in a process of its own, which is forked from one that has done their imports: half of their time.

`python warm.py` is that process: it reads a command a line, and answers with its exit code.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

MODULES = {"dvc": "dvc.cli", "snakemake": "snakemake.cli"}
# What both import when they are at work; none of it reads the folder, the environment or the arguments.
AT_WORK = [
    "dvc.analytics", "dvc.cli.parser", "dvc.data_cloud", "dvc.lock", "dvc.repo.artifacts", "dvc.repo.graph", "dvc.repo.index",
    "dvc.repo.metrics", "dvc.repo.params", "dvc.repo.plots", "dvc.repo.reproduce", "dvc.repo.stage", "dvc.repo.status", "dvc.rwlock",
    "dvc.stage.cache", "dvc_render.vega", "dulwich.walk", "scmrepo.git", "snakemake.report.html_reporter", "configobj", "docutils",
    "jinja2", "networkx", "pandas", "pygments", "requests", "ruamel.yaml", "smart_open", "unittest.mock", "yte",
]  # fmt: skip


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` with captured output; `python -m dvc ...` and `python -m snakemake ...` start warm.

    Raises subprocess.TimeoutExpired after `timeout` seconds.
    """
    if list(command[:2]) != [sys.executable, "-m"] or command[2] not in MODULES:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    with tempfile.TemporaryDirectory() as made:
        streams = [Path(made) / name for name in ("stdout", "stderr")]
        os.umask(umask := os.umask(0))
        asked = {"arguments": command[2:], "folder": str(folder), "environment": dict(environment), "umask": umask}
        process = server()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(asked | {"streams": list(map(str, streams))}) + "\n")
        process.stdin.flush()
        try:
            if not select.select([process.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(command, timeout)
            code = int(process.stdout.readline())
        except BaseException:  # its answer would be taken for the next one's
            process.kill()
            server.cache_clear()
            raise
        return subprocess.CompletedProcess(command, code, *(path.read_text(encoding="utf-8", errors="replace") for path in streams))


@cache
def server() -> subprocess.Popen[str]:
    """It ends with this process, which closes its standard input."""
    environment = {name: of for name, of in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen([sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve() -> None:
    sys.path.pop(0)  # this file's folder
    mains = {name: import_module(module).main for name, module in MODULES.items()}
    for name in AT_WORK:
        import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            name, *arguments = become(**json.loads(line))
            sys.exit(mains[name](arguments))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def become(arguments: list[str], folder: str, environment: dict[str, str], umask: int, streams: list[str]) -> list[str]:
    """Be as a process that was started with these; returns the arguments."""
    for number, path in enumerate([os.devnull, *streams]):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = arguments
    return arguments


if __name__ == "__main__":
    serve()
