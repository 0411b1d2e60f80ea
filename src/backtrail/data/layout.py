"""What lies where in a folder or an archive of images: splits, classes, labels, and what is left out and why. Names alone decide, and for
files without an ending of images their first bytes."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from backtrail.data.archives import LABEL_FILE, Members
from backtrail.data.decode import ENDINGS, format_of
from backtrail.errors import UserError

log = logging.getLogger(__name__)

ASIDE = {b"@eadir", b"__macosx", b"#recycle", b"$recycle.bin", b"lost+found"}  # folders that programs make, lower case; and hidden ones
THUMBNAILS = {b"thumbs", b"thumbnail", b"thumbnails"}  # likewise, whatever underscores are around them
TRAIN, VALIDATION, TEST = "train", "val", "test"
# A word that says a split, alone or written together with what a split is of.
OF_IMAGES = "set|data|dataset|images?|imgs?|pictures?|photos?|files?|samples?|split|px|x"
SPLIT = re.compile(f"(?:(?P<train>train|training)|(?P<val>val|valid|validation)|(?P<test>test|testing))(?:{OF_IMAGES})?")
CURE = "sort all images into train/ and test/, with the classes in them, or give the folder another name"
SHOWN = 8  # endings, or folders, that a sentence names


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
    return next((part.decode() for part in name.split(b"/") if _is_aside(part.lower())), None)


def _is_aside(part: bytes) -> bool:
    return part.startswith(b".") or part in ASIDE or part.strip(b"_") in THUMBNAILS


def split_of(folder: bytes) -> str | None:
    """TRAIN, VALIDATION or TEST if a folder's name says that and no more: train, Training Set, val_images, test2017; else None."""
    said, others = _said(folder)
    return said[0] if len(said) == 1 and all(re.fullmatch(OF_IMAGES, word) for word in others) else None


def _said(folder: bytes) -> tuple[list[str], list[str]]:
    """The splits that words of a folder's name say, and its other words, in lower case; capitals begin a word, digits are in none."""
    words = re.findall(r"[^\W\d_]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", folder.decode()).lower())
    found = [(word, SPLIT.fullmatch(word)) for word in words]
    return [match.lastgroup or "" for _, match in found if match], [word for word, match in found if not match]


def _root(names: list[bytes]) -> bytes:
    """The folder, with its slash, that holds everything and is no split: what "compress this folder" puts around it."""
    root = b""
    while True:
        tops = {_folder(name[len(root) :], 0) for name in names}
        if len(tops) > 1 or not (top := tops.pop()) or split_of(top):
            return root
        root += top + b"/"


def _splits(members: Members, names: list[bytes], left_out: Counter[str]) -> tuple[list[int], np.ndarray | None]:
    """The images that are used, and whether each is a test image; validation images are the test images where there are no others."""
    tops = [_folder(name, 0) for name in names]
    split = {top: split_of(top) for top in set(tops)}
    found = {top for top in split if split[top]}
    _check_depths(members, names, bool(found))
    if not found:
        return list(range(len(names))), None
    kinds = [split[top] for top in tops]
    is_strange = None in kinds
    if is_strange or TRAIN not in kinds:
        stray = names[next((k for k, kind in enumerate(kinds) if kind != TRAIN), 0)].decode()
        why = "lies in none" if is_strange else "leaves nothing to train on"
        raise UserError(f"{members.path}: {_words(found)} are splits, and {stray} {why}: {CURE}")
    test = TEST if TEST in kinds else VALIDATION
    chosen = [k for k, kind in enumerate(kinds) if kind in (TRAIN, test)]
    if len(chosen) < len(names):
        left_out["validation images, because there are test images"] = len(names) - len(chosen)
    return chosen, np.array([kinds[k] == test for k in chosen])


def _check_depths(members: Members, names: list[bytes], is_split: bool) -> None:
    """Raises UserError where folders say splits that are not understood: below the top, or together with other words (trainA, testA).

    One such folder with other words alone is a class (train_station).
    """
    folders = {name.rpartition(b"/")[0] for name in names}
    for depth in range(max(folder.count(b"/") for folder in folders) + 1):
        at_depth = {_folder(folder + b"/", depth) for folder in folders}
        if depth and (below := {part for part in at_depth if split_of(part)}):
            place = next(name for name in names if _folder(name, depth) in below).decode()
            raise UserError(f"{members.path}: {_words(below)} ({place}) say splits below the top, where none is understood: {CURE}")
        saying = {part: said for part in at_depth if (said := _said(part)[0])}
        if (depth or not is_split) and len({kind for said in saying.values() for kind in said}) > 1:
            raise UserError(f"{members.path}: {_words(saying)} say splits together with other words: {CURE}")


def _folder(name: bytes, depth: int) -> bytes:
    """The folder of a member at `depth` (0 = outermost), empty if the file lies above it."""
    folders = name.split(b"/")[:-1]
    return folders[depth] if depth < len(folders) else b""


def _words(parts: Iterable[bytes]) -> str:
    named = sorted(part.decode() for part in parts)
    return ", ".join(named[:SHOWN]) + (", ..." if len(named) > SHOWN else "")


def _endings() -> str:
    return ", ".join(ending.decode() for ending in ENDINGS)
