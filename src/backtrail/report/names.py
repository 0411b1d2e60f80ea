"""How methods and metrics are called, and how each method looks: one colour, marker and line everywhere.

The colours stay apart for colour-blind readers (Paul Tol's vibrant scheme), the markers and lines stay apart in grey.
"""

import zlib
from dataclasses import dataclass
from typing import Any

HIGHER_IS_BETTER = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Look:
    """One method's appearance in every figure."""

    label: str
    colour: str
    marker: str
    line: Any


LOOKS = {
    "diff-instruct": Look("Diff-Instruct", "#0077bb", "s", (0, (4, 1.5))),
    "disback": Look("DisBack", "#cc3311", "o", "-"),
    "trajectory": Look("Trajectory distillation (Alg. 1)", "#aa4499", "^", (0, (4, 1.5, 1, 1.5))),
    "sfd": Look("SFD", "#009988", "D", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    "sfd-v": Look("SFD-v", "#ee7733", "v", "-"),
    "dpmpp-3m": Look("Teacher, DPM-Solver++(3M)", "#000000", "X", (0, (1, 1.2))),
    "heun": Look("Teacher, Heun", "#555555", "P", (0, (5, 2))),
    "heun-guided": Look("Teacher, Heun, guided", "#bbaa00", "H", (0, (5, 1, 1, 1))),
    "ipndm": Look("Teacher, iPNDM(4)", "#8c6d46", "*", (0, (1, 2, 4, 2))),
    "euler": Look("Teacher, Euler", "#888888", "p", (0, (3, 1.5, 1, 1.5))),
}
# Students that are no method of the papers. What is long about one is the suite's to say: the path, or the training.
VARIANTS = {
    "disback-long": Look("DisBack, long", "#117733", "h", (0, (2, 1))),
    "diff-instruct-random": Look("Diff-Instruct from random weights", "#332288", "<", (0, (3, 1, 1, 1))),
    "disback-random": Look("DisBack from random weights", "#882255", ">", (0, (1, 1))),
}
SPARE_COLOURS = ("#332288", "#117733", "#882255", "#ddaa33", "#33bbee", "#ee3377")
SPARE_MARKERS = ("<", ">", "h", "8", "d", "p")
SPARE_LINES = ((0, (2, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def look(name: str) -> Look:
    """A method's look; one that has none of its own gets a spare that depends on its name alone, so that it is the same everywhere."""
    if (own := LOOKS.get(name) or VARIANTS.get(name)) is not None:
        return own
    pick = zlib.crc32(name.encode())
    colour, marker, line = (
        spare[pick // weight % len(spare)] for spare, weight in ((SPARE_COLOURS, 1), (SPARE_MARKERS, 6), (SPARE_LINES, 36))
    )
    return Look(literal(name[:40]), colour, marker, line)


def label(name: str) -> str:
    """A method's name in tables and text."""
    return look(name).label if name in LOOKS or name in VARIANTS else name


def literal(text: str) -> str:
    """Text that matplotlib draws as it stands: no mathematics, no legend entry hidden by a leading underscore."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def metric_label(metric: str) -> str:
    """`fd_efficientnet_lite0` -> `FD-EfficientNet-Lite0`. A distance in other features than Inception's is never called FID."""
    kinds = {"fd": "FD", "kid": "KID", "fid": "FID"} | {name: name.capitalize() for name in HIGHER_IS_BETTER}
    features = {"efficientnet_lite0": "EfficientNet-Lite0", "classifier": "classifier", "inception": "Inception"}
    features["inception_clean"] = "Inception, clean-fid's resizing"
    kind, _, extractor = metric.removesuffix("_best").partition("_")
    best = ", smallest of the samplings" if metric.endswith("_best") else ""
    return f"{kinds.get(kind, kind)}-{features.get(extractor, extractor)}{best}"


def higher_is_better(metric: str) -> bool:
    """False for distances."""
    return metric.partition("_")[0] in HIGHER_IS_BETTER
