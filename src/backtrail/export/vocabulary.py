"""RO-Crate's vocabulary for rocrate-validator where there is no network: from the package `rocrate`, laid into a cache that it reads."""

import json
from pathlib import Path
from typing import Any

import requests
import rocrate
from requests.adapters import HTTPAdapter

from backtrail.artifacts import load_json

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
CACHE = Path(".scratch/ro-crate-vocabulary")
WORKFLOW = "https://bioschemas.org/ComputationalWorkflow"
# What version 1.1, which the profile asks for, names otherwise than the newer version that the package has.
OF_1_1 = {
    "ComputationalWorkflow": WORKFLOW, "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": f"{WORKFLOW}#input", "output": f"{WORKFLOW}#output",
}  # fmt: skip


class _Packaged(HTTPAdapter):
    """Answers each request with the vocabulary, and asks no network."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        from requests_cache.models import CachedHTTPResponse

        content = load_json(Path(rocrate.__file__).parent / "data/ro-crate.jsonld")
        content["@context"] |= OF_1_1
        headers = {"Content-Type": "application/ld+json"}
        return self.build_response(request, CachedHTTPResponse(json.dumps(content).encode(), headers=headers, status=200))


def checks(folder: str) -> str:
    """The command that holds the crate in `folder` against its profile: off the network, from a cache made here, if requests-cache is here.

    It comes with rocrate-validator; where neither is, the command gets the vocabulary from the network.
    """
    command = f"rocrate-validator -y validate -v --no-paging -p provenance-run-crate {folder}"
    try:
        from requests_cache import CachedSession
    except ImportError:
        return f"{command}    # `pip install roc-validator`; it needs a network"
    with CachedSession(str(CACHE), backend="sqlite", expire_after=-1) as session:
        session.mount(CONTEXT, _Packaged())
        session.get(CONTEXT)
    return f"{command} --offline --cache-path {CACHE}"
