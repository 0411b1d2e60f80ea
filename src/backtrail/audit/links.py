"""The links between stages: what each read, against what those above it made, what params.yaml says, and what dvc.yaml declares."""

import tempfile
from collections.abc import Iterator

from backtrail.audit.by_hand import lies_in, places_by_hand
from backtrail.audit.evidence import Evidence
from backtrail.audit.findings import ABSENT, BROKEN, STALE, UNBACKED, Finding
from backtrail.errors import UserError
from backtrail.laid_down import declared_stages
from backtrail.layout import CODE_FILE, GATHERED, LOCK_FILE, PARAMS_FILE
from backtrail.ledger.hashes import folder_md5
from backtrail.ledger.ledger import Entry, Ledger, Stage, at_key
from backtrail.ledger.repository import file_at, tracked
from backtrail.nested import differences
from backtrail.pipeline import Declared

RUN_PAGE = "reports/run.html"  # of the stage `ledger`, which leaves no record

NAMED = 8  # stages that one message names


def inputs(of: Evidence, stage: Stage) -> Iterator[Finding]:
    """What a stage read, by the lock, against what the stages above it made, by the lock and on disk."""
    for path, entry in stage.deps.items():
        if of.ledger.is_code(path):
            continue
        made = of.ledger.makers.get(path)
        if made is None:
            yield from _outside(of, stage, entry)
        elif made.outs[path].md5 != entry.md5:
            message = f"{stage.name} read {path} with md5 {entry.md5}; {made.name} has since made {made.outs[path].md5}"
            yield Finding(STALE, f"stage:{stage.name}", f"{path} -> {stage.name}", message, f"dvc repro {stage.name}")


def _outside(of: Evidence, stage: Stage, entry: Entry) -> Iterator[Finding]:
    """A dependency that is no stage's output by its own name: a folder that several stages wrote into, params.yaml, or nobody's file."""
    path, link = entry.path, f"{entry.path} -> {stage.name}"
    parts = of.ledger.below(path)
    if any(part in of.bad and of.hashes.of(part) is not None for part in parts):
        return  # the part's own finding says it, and not everything in this folder rests on it
    if parts:
        md5 = _folder_md5(of, path, parts)
        if md5 is None:
            return  # a folder in it is not here, which its own finding says
    else:
        md5 = digest.md5 if (digest := of.hashes.of(path)) else None
    if md5 is None:
        by_hand = path in of.ledger.by_hand
        yield Finding(ABSENT if by_hand else UNBACKED, path, link, f"{path} is not here", size_bytes=entry.size_bytes, absent=True)
    elif md5 != entry.md5:
        message = f"{stage.name} read other bytes of {path} (md5 {entry.md5}) than those here ({md5})"
        yield Finding(STALE, f"stage:{stage.name}", link, message, f"dvc repro {stage.name}")
    elif not parts and path != PARAMS_FILE and path not in of.ledger.by_hand:
        yield Finding(UNBACKED, path, f"? -> {path}", f"{stage.name} read {path}, which no stage in {LOCK_FILE} made", "dvc repro")


def _folder_md5(of: Evidence, path: str, parts: list[str]) -> str | None:
    """md5 of a folder as the stages made it, without strange files in it; of a file that is not here, the lock says what it was.

    None if a folder within it is not here.
    """
    files = {}
    for part in parts:
        entry = of.ledger.makers[part].outs[part]
        if (of.ledger.folder / part).exists():
            files |= {name: digest.md5 for name in of.hashes.files(part) if (digest := of.hashes.of(name))}
        elif entry.md5.endswith(".dir"):
            return None
        else:
            files[part] = entry.md5
    return folder_md5({name.removeprefix(f"{path}/"): md5 for name, md5 in files.items()})


def parameters(of: Evidence, stage: Stage) -> Iterator[Finding]:
    """A stage's parameters against params.yaml."""
    for key, value in stage.params.items():
        if (now := at_key(of.ledger.params, key)) != value:
            places = [".".join((key, *place)) for place, *_ in differences(value, now)]
            message = f"{', '.join(places[:4])} in {PARAMS_FILE} has changed since {stage.name} ran"
            yield Finding(STALE, f"stage:{stage.name}", f"{PARAMS_FILE} -> {stage.name}", message, f"dvc repro {stage.name}")


def declarations(ledger: Ledger) -> Iterator[Finding]:
    """The stages that dvc.yaml declares against those that dvc.lock has, and each against its declaration."""
    try:
        declared = {stage.name: stage for stage in declared_stages(ledger.folder, ledger.params)}
    except (UserError, KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        yield Finding(UNBACKED, "dvc.yaml", f"dvc.yaml -> {LOCK_FILE}", f"dvc.yaml does not say which stages there are: {error}")
        return
    for name in ledger.stages.keys() - declared.keys():
        message = f"{LOCK_FILE} has a stage {name}, and dvc.yaml declares none of that name"
        yield Finding(UNBACKED, f"stage:{name}", f"dvc.yaml -> {name}", message, "dvc repro")
    for name, stage in ledger.stages.items():
        if stage.keeps_books and not _keeps_books_alone(stage):
            message = (
                f"{name} makes {CODE_FILE} or {GATHERED} beside {', '.join(stage.products[:3])}, by {stage.cmd!r}: nothing else checks it"
            )
            yield Finding(BROKEN, f"stage:{name}", f"dvc.yaml -> {name}", message, f"git checkout -- {LOCK_FILE}")
        if name in declared and not stage.makes_code and (unlike := _unlike(stage, declared[name])):
            message = f"{name} ran otherwise than dvc.yaml declares it: {'; '.join(unlike[:3])}"
            yield Finding(STALE, f"stage:{name}", f"dvc.yaml -> {name}", message, f"dvc repro {name}")
    if cut := _cut(ledger):
        yield Finding(BROKEN, LOCK_FILE, f"git -> {LOCK_FILE}", cut, f"git checkout -- {LOCK_FILE}")
    elif missing := sorted(declared.keys() - ledger.stages.keys()):
        names = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        message = f"dvc.yaml declares {len(missing)} stages that {LOCK_FILE} lacks: {names}"
        yield Finding(UNBACKED, LOCK_FILE, f"dvc.yaml -> {LOCK_FILE}", message, "dvc repro")


def _keeps_books_alone(stage: Stage) -> bool:
    """Whether a stage that is not checked as others are, since it makes the digests of code or gathers records, makes nothing else."""
    if stage.makes_code:
        return stage.command == "code" and stage.outs.keys() == {CODE_FILE}
    return stage.command == "ledger" and stage.outs.keys() <= {GATHERED, RUN_PAGE}


def _unlike(stage: Stage, declared: Declared) -> list[str]:
    """How a stage of the lock differs from its declaration: in its command line, or in what it reads, makes and depends on.

    A link that was taken out of the lock and the record alike would leave a number resting on less than it was made from.
    """
    if not stage.command:
        return [f"{LOCK_FILE} has the command line {stage.cmd!r}, which is none of this package's"]
    found = [f"{LOCK_FILE} has {stage.cmd!r}, dvc.yaml {declared.cmd!r}"] if stage.cmd != declared.cmd else []
    for what, ours, theirs in (
        ("input", stage.deps.keys(), declared.deps),
        ("parameter", stage.params.keys(), declared.params),
        ("output", stage.outs.keys(), declared.outs),
    ):
        found += [f"{LOCK_FILE} lacks its {what} {name}" for name in theirs if name not in ours]
        found += [f"{LOCK_FILE} has one {what} more, {name}" for name in ours if name not in theirs]
    return found


def declared_otherwise(ledger: Ledger) -> Iterator[str]:
    """A line where dvc.yaml itself is not the pipeline that this package lays down for such parameters: a link may have been taken out.

    No verdict hangs on it: a suite may have stages of its own, or be one of an earlier version.
    """
    try:
        with tempfile.TemporaryDirectory() as empty:
            ours = {stage.name: stage for stage in declared_stages(empty, ledger.params)}
        theirs = {stage.name: stage for stage in declared_stages(ledger.folder, ledger.params)}
    except (UserError, KeyError, TypeError, AttributeError, ValueError, OSError):
        return
    unlike = [
        name
        for name, stage in theirs.items()
        if (mine := ours.get(name)) and any(set(a) != set(b) for a, b in zip(_links(stage), _links(mine), strict=True))
        if not name.startswith("code")
    ]
    unlike += [name for name in theirs if name not in ours]
    if unlike:
        names = ", ".join(unlike[:NAMED]) + (f" and {len(unlike) - NAMED} more" if len(unlike) > NAMED else "")
        yield f"dvc.yaml declares {len(unlike)} stages otherwise than this version of the package does for these parameters: {names}"


def _links(stage: Declared) -> tuple[tuple[str, ...], ...]:
    return (stage.command,), stage.deps, stage.params, stage.outs


def _cut(ledger: Ledger) -> str:
    """Whether dvc.lock ends before its end: in the midst of a line or an entry, or where the committed one goes on."""
    here = (ledger.folder / LOCK_FILE).read_bytes()
    if not here.endswith(b"\n") or any(not entry.md5 for stage in ledger.stages.values() for entry in stage.outs.values()):
        return f"{LOCK_FILE} is cut: it ends in the midst of an entry, after {len(ledger.stages)} stages"
    committed = file_at(ledger.folder, "HEAD", LOCK_FILE)
    if committed is not None and len(committed) > len(here) and committed.startswith(here):
        return f"{LOCK_FILE} is cut: it has {len(ledger.stages)} stages, and goes on in the present commit"
    return ""


def strays(of: Evidence) -> Iterator[Finding]:
    """Files where only stages write, and that no stage made."""
    # What is shown is looked through even where no stage makes anything of it: a page may stay behind when its stage is taken away.
    tops = {path.split("/")[0] for path in of.ledger.makers if "/" in path} | {"reports", "results"}
    # .dvcignore has no say: what it names would be hidden from the audit, and be shown all the same.
    files = (path for top in tops for path in (of.ledger.folder / top).rglob("*") if path.is_file() or path.is_symlink())
    by_hand, published = places_by_hand(of.ledger), set(tracked(of.ledger.folder) or ())
    within: dict[str, set[str]] = {}
    for name in sorted(path.relative_to(of.ledger.folder).as_posix() for path in files):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))
        hidden = hidden and (name not in published or name.endswith("/.gitignore"))  # what is committed is shown
        if not hidden and not lies_in(name, by_hand) and not _is_made(of, name, within):
            yield Finding(UNBACKED, name, f"? -> {name}", f"{name}: no stage made it")


def _is_made(of: Evidence, name: str, within: dict[str, set[str]]) -> bool:
    """Whether a file is an output or counts to one that is a folder. within: the files that count to a folder, by folder, once read."""
    above = of.ledger.below(name)
    if not above or name in above:
        return bool(above)
    if above[0] not in within:
        within[above[0]] = set(of.hashes.files(above[0]))
    return name in within[above[0]]
