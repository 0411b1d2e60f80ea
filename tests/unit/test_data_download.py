"""Fetching, against a server on this machine that cuts, lies, refuses and counts."""

import hashlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backtrail.data import debian, download
from backtrail.data import fetch as fetching
from backtrail.data.fetch import fetch
from backtrail.data.registry import File, Packaged, Source
from backtrail.errors import UserError

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """`/cut` delivers 300,000 bytes a request, `/plain` knows no ranges and cuts once, `/new` cuts once and changes, `/NNN` is a status."""

    def do_GET(self):
        name = self.path.strip("/")
        seen = self.server.seen
        seen[name] += 1
        self.server.requests.append((self.path, dict(self.headers)))
        if name == "slow":
            time.sleep(0.5)
        if name.isdigit() or (name == "503-once" and seen[name] == 1):
            return self._status(int(name[:3]))
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if name != "plain" else 0
        body = CONTENT if name != "wrong" else CONTENT[:-1] + b"\0"
        if name == "new" and seen[name] == 1:
            body = bytes(len(CONTENT))
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if start and self.headers.get("If-Range") not in (None, etag):
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        cut = name == "cut" or (name in ("plain", "new") and seen[name] == 1)
        self.wfile.write(body[start : start + 300_000] if cut else body[start:])
        self.close_connection = cut

    def _status(self, code):
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.seen, made.requests = Counter(), []
    made.handle_error = lambda *_: None  # a client that hangs up, as `download` does when too much is offered
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def at(server, *names):
    return tuple(f"http://127.0.0.1:{server.server_address[1]}/{name}" for name in names)


def source_of(addresses, sha256=SHA256, **more):
    file = File(name="thing.bin", addresses=tuple(addresses), sha256=sha256, served_bytes=len(CONTENT), **more)
    return Source(name="thing", purpose="p", licence="l", date="d", homepage="https://example.org/thing", files=(file,))


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()} - {"lock"}


def test_whole_file_and_no_second_request(server, tmp_path):
    kept = fetch(source_of(at(server, "whole")), tmp_path / "raw")
    assert (tmp_path / "raw" / "thing.bin").read_bytes() == CONTENT
    assert (kept[0].sha256, kept[0].verified, kept[0].origin) == (SHA256, "pinned", at(server, "whole")[0])
    again = fetch(source_of(at(server, "whole")), tmp_path / "raw")
    assert again[0].origin == "already here" and server.seen["whole"] == 1
    assert left_in(tmp_path) == {"thing.bin"}


def test_cut_connections_are_resumed_where_they_stopped(server, tmp_path):
    fetch(source_of(at(server, "cut")), tmp_path / "raw")
    starts = [headers.get("Range") for _, headers in server.requests]
    assert starts == [None, "bytes=262144-", "bytes=524288-", "bytes=786432-"]  # four whole pieces of 64 KiB a time
    assert (tmp_path / "raw" / "thing.bin").read_bytes() == CONTENT


def test_server_without_ranges_and_changed_file_start_again(server, tmp_path):
    for name in ("plain", "new"):
        fetch(source_of(at(server, name)), tmp_path / name)
        assert (tmp_path / name / "thing.bin").read_bytes() == CONTENT


def test_a_killed_run_is_taken_up_and_a_stale_half_is_thrown_away(server, tmp_path):
    (tmp_path / ".raw.partial").mkdir()
    (tmp_path / ".raw.partial" / "thing.bin.part").write_bytes(CONTENT[:500_000])
    fetch(source_of(at(server, "whole")), tmp_path / "raw")
    assert [headers.get("Range") for _, headers in server.requests] == ["bytes=500000-"]

    (tmp_path / ".other.partial").mkdir()
    (tmp_path / ".other.partial" / "thing.bin.part").write_bytes(bytes(500_000))
    fetch(source_of(at(server, "whole")), tmp_path / "other")
    assert (tmp_path / "other" / "thing.bin").read_bytes() == CONTENT


def test_what_arrived_before_giving_up_is_taken_up_by_the_next_run(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CUTS", 0)
    with pytest.raises(UserError, match="the connection was cut"):
        fetch(source_of(at(server, "cut")), tmp_path / "raw")
    assert left_in(tmp_path) == {"thing.bin.part"}
    fetch(source_of(at(server, "whole")), tmp_path / "raw")
    assert [headers.get("Range") for _, headers in server.requests] == [None, "bytes=262144-"]
    assert left_in(tmp_path) == {"thing.bin"}


def test_without_a_digest_halves_of_two_runs_are_never_joined(server, tmp_path):
    (tmp_path / ".raw.partial").mkdir()
    (tmp_path / ".raw.partial" / "thing.bin.part").write_bytes(bytes(500_000))
    kept = fetch(source_of(at(server, "whole"), sha256=None), tmp_path / "raw")
    assert (kept[0].sha256, kept[0].verified) == (SHA256, "first use")


def test_wrong_digest_names_both_and_keeps_nothing(server, tmp_path):
    found = hashlib.sha256(CONTENT[:-1] + b"\0").hexdigest()
    with pytest.raises(UserError) as error:
        fetch(source_of(at(server, "wrong")), tmp_path / "raw")
    assert found in str(error.value) and SHA256 in str(error.value) and "`local`" in str(error.value)
    assert left_in(tmp_path) == set()


def test_next_address_after_a_wrong_one_a_missing_one_and_a_refused_one(server, tmp_path):
    refused = f"http://127.0.0.1:{closed_port()}/whole"
    start = time.monotonic()
    kept = fetch(source_of([refused, *at(server, "404", "wrong", "whole")]), tmp_path / "raw")
    assert kept[0].origin.endswith("/whole") and time.monotonic() - start < 5


def test_error_names_every_way_tried(server, tmp_path):
    refused = f"http://127.0.0.1:{closed_port()}/whole"
    source = source_of([refused, *at(server, "404", "403")])
    with pytest.raises(UserError) as error:
        fetch(source, tmp_path / "raw", local=tmp_path)
    for part in (
        "has no thing.bin",
        "the connection was refused",
        "HTTP 404",
        "HTTP 403 (is a token needed?)",
        "https://example.org/thing",
    ):
        assert part in str(error.value)


def test_busy_server_is_asked_again_and_a_broken_one_is_given_up(server, tmp_path, monkeypatch):
    fetch(source_of(at(server, "503-once")), tmp_path / "raw")
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match="HTTP 500, 5 times in a row"):
        fetch(source_of(at(server, "500")), tmp_path / "other")


def test_a_dead_host_is_tried_once_for_all_files(tmp_path, monkeypatch):
    port = closed_port()
    calls = []
    real = download.download
    monkeypatch.setattr(fetching, "download", lambda address, *rest: (calls.append(address), real(address, *rest)))
    files = tuple(File(name=f"{k}", addresses=(f"http://127.0.0.1:{port}/{k}",), sha256=SHA256) for k in range(4))
    source = Source(name="four", purpose="p", licence="l", date="d", homepage="h", files=files)
    with pytest.raises(UserError, match="the connection was refused"):
        fetch(source, tmp_path / "raw")
    assert len(calls) == 1


def test_two_processes_at_once_fetch_once(server, tmp_path):
    code = (
        "import sys; from backtrail.data.fetch import fetch; from backtrail.data.registry import File, Source\n"
        "file = File(name='thing.bin', addresses=(sys.argv[1],), sha256=sys.argv[2])\n"
        "print(fetch(Source(name='t', purpose='p', licence='l', date='d', homepage='h', files=(file,)), sys.argv[3])[0].origin)"
    )
    command = [sys.executable, "-c", code, at(server, "slow")[0], SHA256, str(tmp_path / "raw")]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        for _ in range(2)
    ]
    origins = sorted(process.communicate(timeout=120)[0].strip() for process in running)
    assert origins == ["already here", at(server, "slow")[0]] and server.seen["slow"] == 1


def test_pins(server, tmp_path):
    unknown = source_of(at(server, "whole"), sha256=None)
    assert fetch(unknown, tmp_path / "raw", pins={"thing.bin": SHA256})[0].verified == "pinned"
    with pytest.raises(UserError, match="expected " + "0" * 64):
        fetch(unknown, tmp_path / "other", pins={"thing.bin": "0" * 64})
    with pytest.raises(UserError, match=r"no file of thing; its files: thing\.bin"):
        fetch(unknown, tmp_path / "raw", pins={"typo.bin": SHA256})
    with pytest.raises(UserError, match="in the registry"):
        fetch(source_of(at(server, "whole")), tmp_path / "raw", pins={"thing.bin": "0" * 64})


def test_a_file_by_hand_that_nothing_is_known_of_may_change(server, tmp_path):
    by_hand = tmp_path / "by hand"
    by_hand.mkdir()
    unknown = source_of(at(server, "whole"), sha256=None)
    for content in (b"one", b"two"):
        (by_hand / "thing.bin").write_bytes(content)
        assert fetch(unknown, tmp_path / "raw", local=by_hand)[0].sha256 == hashlib.sha256(content).hexdigest()
    (by_hand / "thing.bin").unlink()
    assert fetch(unknown, tmp_path / "raw", local=by_hand)[0].origin == "already here"


def test_what_a_killed_run_left_does_not_stand_in_the_folder(server, tmp_path):
    code = (
        "import os, sys; from backtrail.data import verification; from backtrail.data.fetch import fetch\n"
        "from backtrail.data.registry import File, Source\n"
        "verification.os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "file = File(name='thing.bin', addresses=(sys.argv[1],), sha256=sys.argv[2])\n"
        "fetch(Source(name='t', purpose='p', licence='l', date='d', homepage='h', files=(file,)), sys.argv[3])"
    )
    command = [sys.executable, "-c", code, at(server, "whole")[0], SHA256, str(tmp_path / "raw")]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=60).returncode == -9
    assert list((tmp_path / "raw").iterdir()) == []
    fetch(source_of(at(server, "whole")), tmp_path / "raw")
    assert left_in(tmp_path) == {"thing.bin"}


def test_published_md5_is_held_against_where_no_sha256_is_known(server, tmp_path):
    right = source_of(at(server, "whole"), sha256=None, served_md5=hashlib.md5(CONTENT).hexdigest())
    assert fetch(right, tmp_path / "raw")[0].verified == "published md5"
    with pytest.raises(UserError, match=f"md5 {hashlib.md5(CONTENT).hexdigest()}, expected 00"):
        fetch(source_of(at(server, "whole"), sha256=None, served_md5="00"), tmp_path / "other")


def test_more_bytes_than_expected_are_refused(server, tmp_path):
    file = File(name="thing.bin", addresses=at(server, "whole"), served_bytes=1000)
    source = Source(name="thing", purpose="p", licence="l", date="d", homepage="h", files=(file,))
    with pytest.raises(UserError, match="offers 1024000 bytes, expected 1000"):
        fetch(source, tmp_path / "raw")


def test_token_goes_over_https_only_and_into_no_message(server, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("THING_TOKEN", "s3cret-token")
    assert download.request_headers("https://example.org/x", 0, None, "s3cret-token")["Authorization"] == "Bearer s3cret-token"
    assert "Authorization" not in download.request_headers("http://example.org/x", 0, None, "s3cret-token")
    caplog.set_level(logging.DEBUG)
    source = Source(
        name="t", purpose="p", licence="l", date="d", homepage="h", token_variable="THING_TOKEN", files=source_of(at(server, "403")).files
    )
    with pytest.raises(UserError) as error:
        fetch(source, tmp_path / "raw")
    assert "s3cret" not in str(error.value) + caplog.text
    assert all("Authorization" not in headers for _, headers in server.requests)


def test_no_apt_and_failing_apt_are_named(tmp_path, monkeypatch):
    package = Packaged(name="dataset-thing", folder=str(tmp_path / "installed"))
    file = File(name="thing.bin", sha256=SHA256)
    source = Source(name="t", purpose="p", licence="l", date="d", homepage="h", files=(file,), package=package)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match="Debian package dataset-thing: apt-get and dpkg-deb not found"):
        fetch(source, tmp_path / "raw")
    (tmp_path / "bin").mkdir()
    for name, body in {"apt-get": "echo 'E: no such archive' >&2; exit 100", "dpkg-deb": "exit 1"}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    with pytest.raises(UserError, match=r"`apt-get update` failed \(E: no such archive\)"):
        fetch(source, tmp_path / "raw")
    script = """case "$*" in *update) echo 'W: no route to //user:secret@host/x'; exit 0;; esac; echo 'E: unknown' >&2; exit 100"""
    (tmp_path / "bin" / "apt-get").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"`apt-get download` failed \(W: no route to //host/x; E: unknown\)"):
        fetch(source, tmp_path / "raw")
    assert left_in(tmp_path / ".raw.partial") == set()


def test_installed_package_is_used_and_held_against_the_digest(tmp_path):
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "thing.bin").write_bytes(CONTENT)
    package = Packaged(name="dataset-thing", folder=str(tmp_path / "installed"))
    file = File(name="thing.bin", sha256=SHA256)
    source = Source(name="t", purpose="p", licence="l", date="d", homepage="h", files=(file,), package=package)
    assert fetch(source, tmp_path / "raw")[0].origin == "Debian package dataset-thing"


@pytest.mark.skipif(debian.shutil.which("dpkg-deb") is None, reason="needs dpkg-deb to build a package")
def test_only_the_wanted_members_of_a_package_are_read(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: dataset-thing\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: d\n", encoding="utf-8"
    )
    (tree / "srv" / "thing").mkdir(parents=True)
    (tree / "srv" / "thing" / "thing.bin").write_bytes(CONTENT)
    (tree / "srv" / "thing" / "other").symlink_to("/etc/passwd")
    archive = tmp_path / "apt" / "dataset-thing_1_all.deb"
    archive.parent.mkdir()
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(archive)], check=True, capture_output=True)
    monkeypatch.setattr(debian, "_apt", lambda *_: "")
    package = Packaged(name="dataset-thing", folder="/srv/thing")
    found = debian.from_package(package, ["thing.bin"], tmp_path)
    assert found["thing.bin"].read_bytes() == CONTENT
    assert {path.name for path in archive.parent.iterdir()} == {archive.name, "thing.bin", "lists", "cache"}
    with pytest.raises(debian.Refused, match="holds no other"):
        debian.from_package(package, ["other"], tmp_path)
