"""What lies where in a folder or an archive of images: splits, classes, labels, and what is left out and why. Names alone decide, and for
files without an ending of images their first bytes."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from backtrail.data.archives import LABEL_FILE, Members
from backtrail.data.decode import ENDINGS, format_of
from backtrail.errors import UserError

log = logging.getLogger(__name__)

ASIDE = {b"@eadir", b"__macosx", b"thumbnails", b"#recycle", b"lost+found"}  # folders that programs make, lower case; and hidden ones
TRAIN, VALIDATION, TEST = {b"train", b"training"}, {b"val", b"valid", b"validation"}, {b"test", b"testing"}
SPLITS = TRAIN | VALIDATION | TEST
SHOWN = 8  # endings that a sentence names


@dataclass(frozen=True)
class Layout:
    """The images `rows` of some members, in the order of their names.

    root       the outer folder that holds everything, with its slash, or empty
    label_row  where the label file stands, or None
    in_test    [n] whether an image is a test image, or None without splits of its own
    folders    [n] the class folder of each image (bytes), empty without
    left_out   how many files are left out, by the reason
    """

    rows: np.ndarray
    root: bytes
    label_row: int | None
    in_test: np.ndarray | None
    folders: np.ndarray
    left_out: dict[str, int]

    def warn(self, what: object) -> None:
        """Say what was left out, if anything was."""
        if self.left_out:
            log.warning("%s: left out: %s", what, "; ".join(f"{n} {reason}" for reason, n in self.left_out.items()))


def layout_of(members: Members) -> Layout:
    """Raises UserError if no image is there, or if the folders can be read in two ways."""
    kept, left_out = sift(members)
    names = [bytes(members.names[row]) for row in kept]
    labels = [k for k, name in enumerate(members.names) if name.rsplit(b"/", 1)[-1] == LABEL_FILE.encode() and not aside(bytes(name))]
    if not names:
        left = "; ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise UserError(f"{members.path} holds no image ({left or 'it is empty'}); expected {_endings()}")
    root = _root([*names, *(bytes(members.names[k]) for k in labels)])
    label_row = members.index((root + LABEL_FILE.encode()).decode())
    if strays := [bytes(members.names[k]).decode() for k in labels if k != label_row]:
        raise UserError(f"{members.path}: {strays[0]} is not at the top: put one {LABEL_FILE} beside all images, or take it away")
    below = [name[len(root) :] for name in names]
    chosen, in_test = _splits(members, below, left_out)
    folders = np.array([_folder(below[k], int(in_test is not None)) for k in chosen])
    rows = np.array(kept, np.int64)[chosen]
    return Layout(rows, root, label_row, None if in_test is None or not in_test.any() else in_test, folders, dict(left_out))


def sift(members: Members) -> tuple[list[int], Counter[str]]:
    """The rows of the images, and how many files are left out for which reason; the label file is neither."""
    kept: list[int] = []
    hidden: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for row, stored in enumerate(members.names):
        name = bytes(stored)
        if (place := aside(name)) is not None:
            hidden[place] += 1
        elif name.lower().endswith(ENDINGS) or format_of(members.head(row)):
            kept.append(row)
        elif name.rsplit(b"/", 1)[-1] != LABEL_FILE.encode():
            others[PurePosixPath(name.decode()).suffix.lower()[:16] or "no ending"] += 1
    left_out: Counter[str] = Counter()
    for reason, found in (("hidden or made by programs", hidden), ("that are no image that is read", others)):
        if found:
            kinds = ", ".join(f"{kind} {n}" for kind, n in found.most_common(SHOWN)) + (", ..." if len(found) > SHOWN else "")
            left_out[f"{reason} ({kinds})"] = found.total()
    return kept, left_out


def aside(name: bytes) -> str | None:
    """The hidden or program-made part of a member's path, or None: such copies of images are neither images nor classes."""
    return next((part.decode() for part in name.split(b"/") if part.startswith(b".") or part.lower() in ASIDE), None)


def _root(names: list[bytes]) -> bytes:
    """The folder, with its slash, that holds everything and is no split: what "compress this folder" puts around it."""
    root = b""
    while True:
        tops = {_folder(name[len(root) :], 0) for name in names}
        if len(tops) > 1 or not (top := tops.pop()) or top.lower() in SPLITS:
            return root
        root += top + b"/"


def _splits(members: Members, names: list[bytes], left_out: Counter[str]) -> tuple[list[int], np.ndarray | None]:
    """The images that are used, and whether each is a test image; validation images are the test images where there are no others."""
    tops = [_folder(name, 0).lower() for name in names]
    found, strange = set(tops) & SPLITS, set(tops) - SPLITS
    everything = list(range(len(names)))
    if not found:
        return everything, None
    if strange or not found & TRAIN:
        stray = names[next((k for k, top in enumerate(tops) if top not in TRAIN), 0)].decode()
        raise UserError(
            f"{members.path}: {_words(found)} are splits, and {stray} {'lies in none' if strange else 'leaves nothing to train on'}: "
            "sort all images into train/ and test/, or give the folder another name"
        )
    test = TEST if found & TEST else VALIDATION
    chosen = [k for k in everything if tops[k] in TRAIN | test]
    if len(chosen) < len(names):
        left_out["validation images, because there are test images"] = len(names) - len(chosen)
    return chosen, np.array([tops[k] in test for k in chosen])


def _folder(name: bytes, depth: int) -> bytes:
    """The folder of a member at `depth` (0 = outermost), empty if the file lies above it."""
    folders = name.split(b"/")[:-1]
    return folders[depth] if depth < len(folders) else b""


def _words(parts: set[bytes]) -> str:
    return ", ".join(sorted(part.decode() for part in parts))


def _endings() -> str:
    return ", ".join(ending.decode() for ending in ENDINGS)
