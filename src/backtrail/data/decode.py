"""One encoded image to an array: told by its content, never by its ending, and turned upright; what would lose something is refused."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from backtrail.errors import UserError

# How files of each format begin, and what Pillow may try: its other readers stay unused.
BEGINNINGS = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*"),
    "WEBP": (b"RIFF",),
}
ENDINGS = (b".png", b".jpg", b".jpeg", b".jfif", b".webp", b".bmp", b".tif", b".tiff", b".gif")
CHANNELS = {"L": 1, "RGB": 3}
MAX_SIDE = 8192  # pixels; larger ones are refused before a pixel is decoded
TIFF_PACKINGS = {"raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"}  # the other ones are programs of their own (JPEG, fax)
BITS_PER_SAMPLE = 258  # the tag of a TIFF

HEAD_BYTES = 30  # in which each format says what is asked of it before Pillow opens it

Shape = tuple[int, int, int]


def format_of(head: bytes) -> str | None:
    """The format that a file with this beginning (12 bytes are enough) claims to be, or None if it is no image that is read here."""
    for name, beginnings in BEGINNINGS.items():
        if head.startswith(beginnings):
            return None if name == "WEBP" and head[8:12] != b"WEBP" else name
    return None


@dataclass(frozen=True)
class Decoded:
    """An image uint8 [C, H, W] (C = 1 grey, 3 RGB), and whether its EXIF orientation was applied."""

    pixels: np.ndarray
    turned: bool


def decode(data: bytes, what: str, shape: Shape | None = None) -> np.ndarray:
    """The pixels of `decode_upright`."""
    return decode_upright(data, what, shape).pixels


def decode_upright(data: bytes, what: str, shape: Shape | None = None) -> Decoded:
    """An encoded image, turned as its EXIF orientation says (EDM's own tool ignores that); a palette becomes the colours that it names.

    Raises UserError if it is cut, not square, not of `shape`, has several pictures, or does not fit 8 bits of grey or of each of red,
    green and blue without loss (16 bits, transparency, CMYK). Format, size and mode are looked at before a pixel is decoded. A file whose
    end was filled with zeros is told from a whole one where its format can tell: BMP, WebP and TIFF without packing cannot.
    """
    if format_of(data[:12]) == "JPEG" and not _reaches_its_end(data):  # its decoder takes zeros for pixels
        raise UserError(f"{what} is no whole JPEG (its end is missing): get it again")
    with _opened(io.BytesIO(data), what, shape) as (image, channels):
        turned, kind = _is_turned(image.getexif()), image.format
        if image.mode == "P":
            image = image.convert("RGB")
        # Pillow turns a TIFF by itself
        pixels = np.asarray(ImageOps.exif_transpose(image) if turned and kind != "TIFF" else image)
    return Decoded(pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1)), turned)


def header_is_turned(stream: BinaryIO, what: str, shape: Shape) -> bool:
    """Whether the encoded image of `shape` in `stream` will be turned, as far as it says so before its pixels, none of which is decoded.

    Raises UserError for all that `decode_upright` refuses but for pixels that are damaged or cut.
    """
    with _opened(stream, what, shape) as (image, _):
        return _is_turned(Image.Image.getexif(image))  # that of a PNG decodes it, to look behind the pixels


@contextmanager
def _opened(stream: BinaryIO, what: str, shape: Shape | None) -> Iterator[tuple[Image.Image, int]]:
    """The image before a pixel is decoded, and its channels. Raises UserError for what it says of itself, and if it turns out damaged."""
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    kind = format_of(head)
    if kind is None:
        raise UserError(f"{what} is no whole image ({', '.join(BEGINNINGS)}): get it again, or take it away")
    if kind == "WEBP":  # Pillow makes room for the whole picture when it opens one
        _check_size(what, *_webp_size(head), shape)
    try:
        with Image.open(stream, formats=[kind]) as image:
            channels = _channels(image, head, what)
            _check_size(what, image.height, image.width, shape)
            if shape is not None and channels != shape[0]:
                raise UserError(f"{what} has {channels} channels, expected {shape[0]}: convert it")
            yield image, channels
    except UserError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        raise UserError(f"{what} is no whole {kind} ({type(error).__name__}): get it again") from None


def _reaches_its_end(data: bytes) -> bool:
    """Whether a JPEG's segments lead to its end-of-image marker (ITU-T T.81, Annex B); what stands behind that is of no concern."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        if marker == 0xD9:
            return True
        # Within a scan: a byte of data, a restart; before a marker: a fill byte.
        stands_alone = marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7
        at += 1 if marker == 0xFF else 2 if stands_alone else 2 + int.from_bytes(data[at + 2 : at + 4])
    return False


def _is_turned(exif: Image.Exif) -> bool:
    return exif.get(ExifTags.Base.Orientation, 1) in range(2, 9)


def _channels(image: Image.Image, head: bytes, what: str) -> int:
    """1 or 3. Raises UserError where the image does not fit into 8 bits of each without loss."""
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{what} holds {image.n_frames} pictures, expected one: save the one that is meant")  # type: ignore[attr-defined]
    tiff = image.format == "TIFF"
    if tiff and (packing := image.info.get("compression", "raw")) not in TIFF_PACKINGS:
        raise UserError(f"{what} is a TIFF packed by {packing}, which is not read: save it as PNG")
    # Pillow reads 16-bit colour as 8-bit colour without a word
    deep = head[24:25] == b"\x10" if image.format == "PNG" else tiff and max(_bits(image)) > 8
    if deep:
        raise UserError(f"{what} has 16 bits or more a channel, expected 8: convert it by the rule that you choose")
    if "transparency" in image.info:
        raise UserError(f"{what} has a transparent colour (tRNS): put it on the background that you choose")
    mode = "RGB" if image.mode == "P" else image.mode
    if mode not in CHANNELS:
        raise UserError(f"{what} has mode {mode}, expected L (8-bit grey) or RGB: convert it")
    return CHANNELS[mode]


def _bits(image: Image.Image) -> tuple[int, ...]:
    return tuple(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]


def _check_size(what: str, height: int, width: int, shape: Shape | None) -> None:
    if shape is not None and (height, width) != shape[1:]:
        raise UserError(f"{what} is {height}x{width}, expected {shape[1]}x{shape[2]} as the first image: crop or scale it")
    if height != width or height > MAX_SIDE:
        raise UserError(f"{what} is {height}x{width}, expected a square of at most {MAX_SIDE} pixels a side: crop or scale it")


def _webp_size(head: bytes) -> tuple[int, int]:
    """Height and width by the header of a WebP (RFC 9649, Sections 2.5 to 2.7), (0, 0) if it has none."""
    chunk, little = head[12:16], lambda part: int.from_bytes(part, "little")
    if chunk == b"VP8X":
        return 1 + little(head[27:30]), 1 + little(head[24:27])
    if chunk == b"VP8L":
        bits = little(head[21:25])
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    return little(head[28:30]) & 0x3FFF, little(head[26:28]) & 0x3FFF
