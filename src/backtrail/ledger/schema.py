"""The schema of records: what `record.recorded` writes, as a strict model. `record.schema.json` is this model, published.

Apart from `record.py`, so that reading records is no part of a stage's code.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from backtrail.parameters.base import Section

SCHEMA_FILE = Path(__file__).with_name("record.schema.json")


class Host(Section):
    """The class of machine that a stage ran on, never its name."""

    system: str = Field(description="operating system")
    machine: str = Field(description="architecture")
    processor: str = Field(description="model of the processor")
    cpus: int | None = Field(description="number of logical processors")


class Device(Section):
    """The GPU that a stage ran on."""

    name: str = Field(description="model")
    driver: str | None = Field(description="version of the driver")
    cuda: str | None = Field(description="version of CUDA that torch was built with")
    cudnn: int | None = Field(description="version of cuDNN")


class Determinism(Section):
    """What torch was told before the stage's work."""

    deterministic_algorithms: bool = Field(description="only algorithms that give the same bytes on every run")
    cudnn_benchmark: bool = Field(description="cuDNN chooses algorithms by timing them")
    cudnn_tf32: bool = Field(description="TF32 in convolutions")
    matmul_tf32: bool = Field(description="TF32 in matrix products")
    threads: int = Field(description="threads of torch on the CPU")


class RecordFile(Section):
    """The record of one run of one stage."""

    schema_: Literal[3] = Field(alias="schema", description="version of this schema")
    stage: str = Field(description="name of the stage in DVC")
    command: str = Field(description="command of the package that ran")
    engine: Literal["dvc", "snakemake", "shell"] = Field(description="what started the stage; snakemake starts it by way of DVC")
    parameters: dict[str, Any] = Field(description="resolved parameters by dotted key in params.yaml, defaults filled in")
    seeds: list[int] = Field(description="training seeds")
    inputs: dict[str, str] = Field(description="sha256 by path in the suite; of a folder, over its files' paths and sha256")
    outputs: dict[str, str] = Field(description="the same, of what the stage made")
    code: dict[str, str] = Field(
        description="fingerprint (sha256 of the text without comments and docstrings) of each source file that the stage stands on"
    )
    commit: str | None = Field(description="commit of the code; null where it lay in no git repository")
    dirty: bool | None = Field(description="whether the code differed from the commit")
    environment_sha256: str | None = Field(description="sha256 of the lock file of the environment, requirements.lock")
    python: str = Field(description="version of Python")
    packages: dict[str, str | None] = Field(description="versions of the packages that a result depends on")
    determinism: Determinism | None = Field(description="flags of torch; null where the stage did not load it")
    host: Host = Field(description="class of machine")
    device: Device | None = Field(description="GPU; null on a CPU")
    processes: int = Field(ge=1, description="number of processes that worked together")
    started: str = Field(description="UTC, ISO 8601")
    ended: str = Field(description="UTC, ISO 8601")
    seconds: float = Field(ge=0, description="wall time by a clock that cannot be set")
    cpu_seconds: float = Field(ge=0, description="processor time of the process")
    gpu_seconds: float = Field(ge=0, description="wall time times the number of GPUs")
    retries: int = Field(ge=0, description="how often an engine had started the stage before")
    resumed_from: list[int] = Field(description="steps from which a resume state was taken up")
    notes: dict[str, Any] = Field(description="what the stage adds")


def schema_text() -> str:
    """The published schema: JSON Schema of `RecordFile`."""
    return json.dumps(RecordFile.model_json_schema(), indent=2, sort_keys=True) + "\n"


def faults(record: Any) -> list[str]:
    """What is wrong with a record, one sentence each; nothing if it fits the schema."""
    try:
        RecordFile.model_validate(record)
    except ValidationError as error:
        return [f"{'.'.join(map(str, fault['loc'])) or 'the record'}: {fault['msg']}" for fault in error.errors()]
    return []
