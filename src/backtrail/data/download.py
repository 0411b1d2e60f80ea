"""One address over HTTP: streamed to a partial file, resumed when cut, given up quickly when nobody answers."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from backtrail.data.verification import Refused

CONNECT_SECONDS = 6.0
READ_SECONDS = 30.0
PIECE_BYTES = 1 << 16  # what a cut can lose: the library gives back whole pieces only
CUTS = 5  # cuts in a row without a new byte before the address is given up


class Unreachable(Refused):
    """No connection to the host: its other files need not be tried."""


class _Again(Exception):
    """An answer after which the same request may succeed."""


def download(address: str, partial: Path, size_bytes: int | None = None, token: str | None = None) -> None:
    """Fetch `address` into `partial`, going on from what is already there.

    `size_bytes` is the expected size of the whole file if it is known; more is refused. `token` is sent as a bearer token, over https
    and to this host only. Raises Unreachable or Refused with a reason that names neither the token nor a redirect's signed address.
    """
    transfer = _Transfer(address, partial, size_bytes, token)
    cuts, at_first = 0, _size(partial)
    if size_bytes is not None and at_first == size_bytes:
        return
    with requests.Session() as session:
        while True:
            before = _size(partial)
            try:
                if transfer.attempt(session):
                    return
                reason = "the connection was cut"
            except _Again as answer:
                reason = str(answer)
            except requests.exceptions.ChunkedEncodingError:
                reason = "the connection was cut"
            except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
                reason = _connection_reason(error)
                if _size(partial) == at_first:
                    raise Unreachable(reason) from None
            except requests.exceptions.RequestException as error:
                raise Refused(f"the request failed ({type(error).__name__})") from None
            cuts = cuts + 1 if _size(partial) <= before else 0
            if cuts >= CUTS:
                raise Refused(f"{reason}, {CUTS} times in a row, after {_size(partial)} bytes")
            time.sleep(0.1 * 2**cuts)


@dataclass
class _Transfer:
    """One address on its way into one partial file; `etag` is the version that the bytes so far are of."""

    address: str
    partial: Path
    size_bytes: int | None
    token: str | None
    etag: str | None = None

    def attempt(self, session: requests.Session) -> bool:
        """One request; what arrives is appended. True if the file is now whole."""
        start = _size(self.partial)
        headers = request_headers(self.address, start, self.etag, self.token)
        with session.get(self.address, headers=headers, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
            _check_status(response, self)
            self.etag = response.headers.get("ETag")
            start = start if response.status_code == 206 and _range_start(response) == start else 0
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else self.size_bytes
            if self.size_bytes is not None and total is not None and total > self.size_bytes:
                raise Refused(f"it offers {total} bytes, expected {self.size_bytes}")
            _append(response, self.partial, start, total, self.size_bytes)
            return total is None or _size(self.partial) >= total


def _check_status(response: requests.Response, transfer: _Transfer) -> None:
    status = response.status_code
    if status == 416:
        transfer.partial.unlink(missing_ok=True)
        raise _Again("the range was not accepted")
    if status == 429 or status >= 500:
        raise _Again(f"HTTP {status}")
    if status not in (200, 206):
        hint = " (is a token needed?)" if status in (401, 403) and not transfer.token else ""
        raise Refused(f"HTTP {status}{hint}")


def request_headers(address: str, start: int, etag: str | None, token: str | None) -> dict[str, str]:
    """The headers of a request that goes on from byte `start`, if what lies there is still of the same version (`etag`)."""
    headers = {"Accept-Encoding": "identity"}  # bytes as they are stored, or a resumed range would be one of another encoding
    if token and address.startswith("https://"):
        headers["Authorization"] = f"Bearer {token}"
    if start:
        headers["Range"] = f"bytes={start}-"
        if etag and not etag.startswith("W/"):
            headers["If-Range"] = etag
    return headers


def _append(response: requests.Response, partial: Path, start: int, total: int | None, limit: int | None) -> None:
    # disable=None: a bar on a terminal, nothing in a log
    name = partial.name.strip(".").removesuffix(".part")
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None, leave=False)
    with open(partial, "r+b" if start else "wb") as target, bar:
        target.seek(start)
        target.truncate()
        for piece in response.iter_content(PIECE_BYTES):
            target.write(piece)
            bar.update(len(piece))
            if limit is not None and target.tell() > limit:
                raise Refused(f"it sends more than the expected {limit} bytes")


def _range_start(response: requests.Response) -> int | None:
    unit, _, place = response.headers.get("Content-Range", "").partition(" ")
    first = place.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else None


def _connection_reason(error: Exception) -> str:
    """Why there is no connection, in words and without the address that the library puts into its message."""
    text = repr(error)
    known = {
        "NameResolutionError": "the host's name is not known here (no network?)",
        "Connection refused": "the connection was refused",
        "ConnectTimeout": f"no connection within {CONNECT_SECONDS:.0f} s",
        "Network is unreachable": "the network is unreachable",
        "No route to host": "there is no route to the host",
        "ProxyError": "the proxy does not answer or refuses",
        "SSLError": "the host's certificate is not accepted",
        "IncompleteRead": "the connection was cut",
        "Connection reset": "the connection was reset",
        "Read timed out": f"no answer within {READ_SECONDS:.0f} s",
    }
    return next((reason for sign, reason in known.items() if sign in text), f"no connection ({type(error).__name__})")


def host_of(address: str) -> str:
    """Host and port of an address, without anything that could be a secret."""
    parts = urlsplit(address)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def token_for(variable: str | None) -> str | None:
    """The token in the environment variable `variable`, if there is one. It is sent and never kept."""
    return os.environ.get(variable) if variable else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
