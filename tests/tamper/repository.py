"""What a user does to the repository of a suite."""

import os
import subprocess
from pathlib import Path


def run(folder: Path, *command: str, **environment: str) -> None:
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, **environment}, capture_output=True)


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", message)
