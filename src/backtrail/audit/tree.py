"""A chain as a tree of text."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from backtrail.audit.findings import VERIFIED
from backtrail.audit.why import UNKNOWN


def tree(chain: dict[str, Any]) -> Iterator[str]:
    """The lines of what `why` found."""
    yield from _suite(chain)
    if "number" in chain:
        yield from _head(chain)
        yield from _link(chain["table"], "", "")
    for link in chain.get("chain", []):
        yield from _link(link, "", "")


def main_line(chain: dict[str, Any]) -> Iterator[str]:
    """The chain in a screen: of every file the one source with the most stages behind it, and the others counted."""
    yield from _suite(chain)
    if "number" in chain:
        yield from _head(chain, findings=3)
    roots = [chain["table"]] if "number" in chain else chain["chain"]
    told = {link["path"]: link for link in _links(roots) if not link.get("told")}
    folded, sources, n_stages = dict(told), roots, _counter(told)
    while sources:
        link, *others = sorted(sources, key=lambda of: n_stages(of["path"]), reverse=True)
        link = told.get(link["path"], link)
        if folded.pop(link["path"], None) is None:
            break  # a ledger with a circle in it
        yield f"{_named(link)}{_beside(others)}"
        yield from (f"   {line}" for line in (_facts(link) if link["stage"] else ()))
        sources = link.get("from", [])
    if folded:
        wrong = Counter(link["verdict"] for link in folded.values() if link["verdict"] != VERIFIED)
        state = f" ({', '.join(f'{n} {verdict}' for verdict, n in wrong.items())})" if wrong else ""
        yield f"{len(folded)} more files are behind it{state}: --all shows every branch"


def _suite(chain: dict[str, Any]) -> Iterator[str]:
    if "suite" in chain:
        yield f"{chain['target']} is of the suite in {chain['suite']}; paths are from the repository's folder"


def _links(roots: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for link in roots:
        yield link
        yield from _links(link.get("from", []))


def _counter(told: dict[str, dict[str, Any]]) -> Callable[[str], int]:
    """Stages on the longest way from a path down to what no stage made: what was measured has more of them than the measure."""

    known: dict[str, int] = {}

    def n_stages(path: str) -> int:
        if path not in known:
            known[path], link = 0, told.get(path, {})  # a ledger with a circle in it must not hang
            known[path] = bool(link.get("stage")) + max((n_stages(of["path"]) for of in link.get("from", [])), default=0)
        return known[path]

    return n_stages


def _beside(others: list[dict[str, Any]]) -> str:
    """The sources that the line does not follow."""
    names = [link["path"] for link in others]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"   (and {', '.join(names[:3])}{more})" if names else ""


def _head(chain: dict[str, Any], findings: int | None = None) -> Iterator[str]:
    yield f"{chain['number']} = {chain['value']}   [{chain['verdict']}]"
    for one in chain.get("values", []):
        yield f"  seed {one['seed']}: {one['value']!r}  ({one['file']})"
    if "mean" in chain:
        spread = "" if chain["std"] is None else f", standard deviation {chain['std']!r}"
        yield f"  mean {chain['mean']!r}{spread}, least {chain['least']!r}"
    if protocol := chain.get("protocol"):
        shown = {key: _short(value) for key, value in protocol.items() if key != "settings"} | protocol.get("settings", {})
        yield "  protocol: " + ", ".join(f"{key} {value}" for key, value in shown.items())
    for finding in chain["findings"][:findings]:
        yield f"  {finding['verdict']}: {finding['message']}"
    if len(chain["findings"]) > (findings or math.inf):
        yield f"  and {len(chain['findings']) - (findings or 0)} more findings"


def _link(link: dict[str, Any], first: str, rest: str) -> Iterator[str]:
    yield f"{first}{_named(link)}"
    if link.get("told") or link["stage"] is None:
        return
    sources = link.get("from", [])
    inside = rest + ("│  " if sources else "   ")
    for line in _facts(link):
        yield inside + line
    for i, source in enumerate(sources, start=1):
        last = i == len(sources)
        yield from _link(source, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def _named(link: dict[str, Any]) -> str:
    state = "" if link["verdict"] == VERIFIED else f"   [{link['verdict']}]"
    digest = f"sha256 {link['sha256'][:16]}" if link["sha256"] else "not here"
    told = ", told above" if link.get("told") else ""
    return f"{link['path']}  {digest}{told}{state}"


def _facts(link: dict[str, Any]) -> Iterator[str]:
    if "commit" not in link:
        yield f"by {link['stage']}, which left no record that can be read"
        return
    commit = (link["commit"] or "no commit")[:12] + (" (dirty)" if link["dirty"] else "")
    cost = f"{link['seconds']:.1f} s" + (
        f", {link['gpu_seconds']:.1f} GPU s" if link["gpu_seconds"] else f", {link['cpu_seconds']:.1f} CPU s"
    )
    forwards = f", {link['cost_F']:,.0f} F" if "cost_F" in link else ""
    yield f"by {link['stage']}: commit {commit}, {link['device']}, {cost}{forwards}"
    if link["resumed_from"]:
        yield f"resumed from step {', '.join(map(str, link['resumed_from']))}"
    for node in link.get("nodes", []):
        yield f"node {node['node']} at step {node['step']}: tensors {node['tensors_sha256'][:16]}"
    unlike = [f"{one['parameter']} {one['ours']} (paper: {one['paper']})" for one in link["unlike_paper"] if one["paper"] != UNKNOWN]
    if unlike:
        yield f"unlike the paper ({link['unlike_paper'][0]['source']}): {', '.join(unlike)}"
    if unknown := [f"{one['parameter']} {one['ours']}" for one in link["unlike_paper"] if one["paper"] == UNKNOWN]:
        yield f"ours, where the paper's own is unknown: {', '.join(unknown)}"
    for file in link["notes"].get("files", []):
        yield f"file {file['name']}: sha256 {file['sha256'][:16]}, {file['verified']}, from {file['origin']}"


def _short(value: Any) -> Any:
    return value[:16] if isinstance(value, str) and len(value) == 64 else value
