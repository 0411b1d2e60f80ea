"""Files out of a Debian package, through apt's own tools and without root: apt checks the archive's signatures, we check the files."""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from backtrail.data.registry import Packaged
from backtrail.data.verification import CHUNK_BYTES, Refused

SECONDS = 300


def from_package(package: Packaged, names: list[str], scratch: Path) -> dict[str, Path]:
    """The files `names` of a package: those installed on this machine, or else taken out of a freshly downloaded archive.

    apt's lists and cache are private folders below `scratch`, so no root is needed and the machine's own state is neither read nor written.
    Raises Refused with apt's own last words.
    """
    installed = {name: Path(package.folder) / name for name in names}
    if all(path.is_file() for path in installed.values()):
        return installed
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise Refused(f"{' and '.join(missing)} not found: this machine has no Debian tools")
    folder = scratch / "apt"
    for below in ("lists/partial", "cache/archives/partial"):
        (folder / below).mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::State::Lists={folder.resolve()}/lists", f"-oDir::Cache={folder.resolve()}/cache", "-oAcquire::Languages=none"]
    # apt as root drops to a user that could not enter our folder; as another user it has nothing to drop
    options += ["-oAPT::Sandbox::User=root", "-oAcquire::Retries=1", "-oAcquire::http::Timeout=15", "-oAcquire::https::Timeout=15"]
    warnings = _apt(["update"], options, folder)
    _apt(["download", package.name], options, folder, warnings)
    archives = sorted(folder.glob(f"{package.name}_*.deb"))
    if not archives:
        raise Refused(f"apt-get brought no archive of {package.name}")
    return _members(archives[-1], package, names, folder)


def _apt(command: list[str], options: list[str], folder: Path, earlier: str = "") -> str:
    """Run apt-get; returns its first complaint, if it had one and went on all the same (`update` does so without a network)."""
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    whole = ["apt-get", "-q", *options, *command]
    try:
        done = subprocess.run(whole, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise Refused(f"`apt-get {command[0]}` did not end within {SECONDS} s") from None
    complaints = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.startswith(("E:", "W:"))]
    first = re.sub(r"//[^/@\s]+@", "//", complaints[0]) if complaints else ""  # an archive's address may hold a password
    if done.returncode:
        raise Refused(f"`apt-get {command[0]}` failed ({'; '.join(filter(None, (earlier, first))) or f'exit code {done.returncode}'})")
    return first


def _members(archive: Path, package: Packaged, names: list[str], folder: Path) -> dict[str, Path]:
    """Only the wanted members are read, each under a name of ours: nothing else of the archive touches the disk."""
    wanted = {f"{package.folder.lstrip('/')}/{name}": name for name in names}
    found: dict[str, Path] = {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    name = wanted.get(member.name.removeprefix("./"))
                    stream = tar.extractfile(member) if name and member.isreg() else None
                    if stream is not None and name is not None:
                        found[name] = folder / name
                        with open(found[name], "wb") as target:
                            shutil.copyfileobj(stream, target, CHUNK_BYTES)
        except tarfile.TarError as error:
            raise Refused(f"{archive.name} cannot be read ({error})") from None
    if absent := [name for name in names if name not in found]:
        raise Refused(f"{archive.name} holds no {', '.join(absent)}")
    return found
