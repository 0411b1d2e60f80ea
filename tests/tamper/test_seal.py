"""A signature over the ledger's digests: made and verified by the tools that git signs with, and what a forger without the key leaves."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from backtrail.artifacts import file_digest, load_json
from backtrail.audit import seals
from backtrail.audit.audit import Audit, audit
from backtrail.errors import UserError
from backtrail.export.crate import Programs, export
from backtrail.ledger.record import folder_digest
from backtrail.ledger.seal import DOSSIER, NAMESPACE, SEAL, SIGNATURE, sealed_files
from tamper.forging import replace, rewrite_ledger

pytestmark = [
    pytest.mark.xdist_group("tamper"),
    pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen, which signs, is not here"),
]
WHO = "alice@example.org"


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The students as programs, which take ten seconds, are no part of what is signed here; test_commands.py exports them."""
    monkeypatch.setattr(Programs, "write", lambda *_: None)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path


@pytest.fixture
def trusting(key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git's own settings of an auditor who knows Alice's key."""
    public = key.with_suffix(".pub").read_text(encoding="utf-8")
    (tmp_path / "allowed").write_text(f"{WHO} {public}", encoding="utf-8")
    (tmp_path / "gitconfig").write_text(f'[gpg "ssh"]\n\tallowedSignersFile = {tmp_path / "allowed"}\n', encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))


@pytest.fixture
def signed(ledger: Path, key: Path, tmp_path: Path) -> Path:
    """A suite whose ledger Alice has signed."""
    export(tmp_path / "dossier", ledger, str(key))
    return ledger


def seal_said(done: Audit) -> list[str]:
    return [finding.message for finding in done.findings] or [note for note in done.notes if "signed" in note or "vouches" in note]


def test_the_audit_names_who_signed_what(signed: Path, trusting: None, tmp_path: Path) -> None:
    done = audit(signed)
    (said,) = seal_said(done)
    assert done.exit_code == 0 and said.startswith(f"signed by {WHO} (ED25519 key SHA256:") and "dvc.lock, results/ledger.json" in said
    dossier = tmp_path / "dossier"
    lines = (dossier / SEAL).read_text(encoding="utf-8").splitlines()
    files = {path.relative_to(dossier).as_posix(): file_digest(path) for path in dossier.rglob("*") if path.is_file()}
    named = {entity["@id"] for entity in load_json(dossier / "ro-crate-metadata.json")["@graph"]}
    assert {SEAL, SIGNATURE} <= files.keys() & named
    assert lines[-1] == f"sha256 {folder_digest({name: of for name, of in files.items() if name not in (SEAL, SIGNATURE)})}  {DOSSIER}"
    quoted = "src/backtrail/report/paper_numbers.yaml"
    assert sealed_files("\n".join(lines))[quoted] == file_digest(signed / quoted)
    assert f"what is quoted from papers: {quoted}, sha256 {file_digest(signed / quoted)}" in done.notes


def test_a_key_that_nobody_vouches_for_is_named_as_that(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (said,) = seal_said(audit(signed))
    assert said.startswith("signed by the holder of a key (ED25519 key SHA256:") and "nobody vouches for" in said


def test_what_a_forger_without_the_key_can_do_is_named(signed: Path, trusting: None, tmp_path: Path) -> None:
    """The ledger made to fit false numbers; the seal made to fit the ledger; the seal signed by another key; all of it taken away."""
    replace(signed / "results/metrics/disback/seed0.json", '"fd_classifier": ', '"fd_classifier": 1')
    rewrite_ledger(signed)
    done = audit(signed)
    assert done.exit_code == 10 and seal_said(done) == ["ledger.seal was signed for another ledger: dvc.lock, results/ledger.json"]
    for path in ("dvc.lock", "results/ledger.json"):
        text = (signed / SEAL).read_text(encoding="utf-8")
        replace(signed / SEAL, sealed_files(text)[path], file_digest(signed / path))
    done = audit(signed)
    assert done.exit_code == 30 and seal_said(done) == ["the signature of ledger.seal is not good: one of both was changed"]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    (signed / SIGNATURE).unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", "backtrail", "-f", str(tmp_path / "other"), str(signed / SEAL)], check=True)
    assert "nobody vouches for" in seal_said(audit(signed))[0]
    (signed / SIGNATURE).unlink()
    assert seal_said(audit(signed)) == [
        "ledger.seal has no signature, or neither ssh-keygen nor gpg is here to verify it: nobody vouches for this ledger"
    ]
    (signed / SEAL).unlink()
    assert seal_said(audit(signed)) == ["nobody has signed this ledger: `backtrail export FOLDER --sign KEY`"]


def test_a_signature_for_another_purpose_is_none(signed: Path, key: Path) -> None:
    (signed / SIGNATURE).unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(key), str(signed / SEAL)], check=True)
    assert audit(signed).exit_code == 30


def test_no_file_is_read_that_a_seal_has_no_business_with(
    signed: Path, key: Path, trusting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("of another folder", encoding="utf-8")
    with (signed / SEAL).open("a", encoding="utf-8") as file:
        file.write(f"sha256 {file_digest(tmp_path / 'secret')}  ../secret\n")
    (signed / SIGNATURE).unlink()
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key), str(signed / SEAL)], check=True)
    read = []
    monkeypatch.setattr(seals, "file_digest", lambda path: read.append(path) or file_digest(path))
    (said,) = seal_said(audit(signed))
    assert said == "ledger.seal was signed for another ledger: ../secret" and read and signed / "../secret" not in read


def test_a_key_that_is_none_is_refused_in_one_sentence(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("none\n", encoding="utf-8")
    with pytest.raises(UserError, match="could not be signed with "):
        export(tmp_path / "dossier", finished, str(tmp_path / "key"))
    assert not (finished / SEAL).exists()


def test_gpg_signs_and_is_verified_too(ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("gpg") is None:
        pytest.skip("gpg is not here")
    home = Path("/tmp") / f"gpg-{os.getpid()}"  # a socket's name must be short
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    try:
        made = ["gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-generate-key", WHO, "ed25519", "sign"]
        if subprocess.run(made, capture_output=True).returncode != 0:
            pytest.skip("gpg makes no key here")
        export(tmp_path / "dossier", ledger, f"gpg:{WHO}")
        (said,) = seal_said(audit(ledger))
        assert said.startswith(f"signed by {WHO} (gpg ")
        (revocation,) = home.glob("openpgp-revocs.d/*.rev")
        revocation.write_text(revocation.read_text(encoding="utf-8").replace(":-----BEGIN", "-----BEGIN"), encoding="utf-8")
        subprocess.run(["gpg", "--batch", "--import", str(revocation)], check=True, capture_output=True)
        done = audit(ledger)
        assert done.exit_code == 20 and f"is by {WHO} (gpg " in seal_said(done)[0] and "whose key was revoked" in seal_said(done)[0]
        (strangers := Path(f"{home}-other")).mkdir(mode=0o700)
        monkeypatch.setenv("GNUPGHOME", str(strangers))  # an auditor who has not the signer's key
        done = audit(ledger)
        assert done.exit_code == 8 and "which is not in this keyring: it cannot be verified here" in done.findings[-1].message
        monkeypatch.setenv("GNUPGHOME", str(home))
        replace(ledger / SEAL, "backtrail:", "Backtrail:")
        assert audit(ledger).exit_code == 30
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], capture_output=True)
        for of in (home, Path(f"{home}-other")):
            shutil.rmtree(of, ignore_errors=True)
