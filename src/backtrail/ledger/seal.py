"""A ledger's digests in a small text that can be signed, by the means that git signs commits with: `ssh-keygen -Y`, or gpg.

Whoever may write a repository may write its ledger anew, with digests that fit. A signature over the digests can be written by the holder
of the key alone. Nothing of cryptography is done here, and which key is whose is for git's own settings (`gpg.ssh.allowedSignersFile`) and
gpg's keyring to say: those of the one who verifies, never those of the suite.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from backtrail.artifacts import file_digest
from backtrail.errors import UserError
from backtrail.layout import CODE_FILE, GATHERED, LOCK_FILE, PARAMS_FILE, PIPELINE_FILE
from backtrail.ledger.ledger import Ledger

SEAL, SIGNATURE = "ledger.seal", "ledger.seal.sig"
NAMESPACE = "backtrail"  # a signature for another purpose is none of a seal
PAPER_NUMBERS = "report/paper_numbers.yaml"
DOSSIER = "the other files of this dossier"
GPG = "gpg:"  # before a key that is gpg's
# What gpg says of a signature that fits the text, and what a reader should know of it beside the signer's name.
FITTING = {"GOODSIG": "", "EXPKEYSIG": ", whose key has expired since", "EXPSIG": ", and has expired", "REVKEYSIG": ""}
LINE = re.compile(r"sha256 ([0-9a-f]{64})  (.+)")


def paper_numbers(ledger: Ledger) -> str:
    """Where the numbers lie that are quoted from papers, seen from the suite."""
    return f"{ledger.code}/{PAPER_NUMBERS}"


def signed_paths(ledger: Ledger) -> tuple[str, ...]:
    """The files that all others hang on, seen from the suite."""
    return (PARAMS_FILE, PIPELINE_FILE, CODE_FILE, LOCK_FILE, GATHERED, paper_numbers(ledger))


def seal_text(ledger: Ledger, dossier: str) -> str:
    """The text to sign: digests of what all others hang on. dossier: that of an export's files."""
    named = {path: file_digest(ledger.folder / path) for path in signed_paths(ledger) if (ledger.folder / path).is_file()}
    lines = [f"sha256 {digest}  {path}" for path, digest in [*named.items(), (DOSSIER, dossier)]]
    return "\n".join([f"backtrail: suite {ledger.params.get('suite', '')}", *lines, ""])


def sealed_files(text: str) -> dict[str, str]:
    """The digests in a seal, by path; without that of the dossier, which lies elsewhere."""
    return {path: digest for digest, path in LINE.findall(text) if path != DOSSIER}


def sign(path: Path, key: str) -> None:
    """Write `path`.sig by an ssh key (the file of the private one, or of the public one with an agent), or by gpg for `gpg:KEY`.

    Raises UserError if that fails.
    """
    signature = path.with_name(f"{path.name}.sig")
    signature.unlink(missing_ok=True)
    if key.startswith(GPG):
        chosen = key.removeprefix(GPG)
        command = ["gpg", "--batch", "--yes", "--armor", "--local-user", chosen, "--output", str(signature), "--detach-sign", str(path)]
    else:
        command = ["ssh-keygen", "-Y", "sign", "-n", NAMESPACE, "-f", key, str(path)]
    done = _run(command)
    if done is None or done.returncode != 0:
        reason = f"{command[0]} is not here" if done is None else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{path} could not be signed with {key}: {reason}; expected an ssh key's file, or gpg:KEY")


@dataclass(frozen=True)
class Signed:
    """Whether a signature is good; by whom, as far as the verifier's own settings say; or else by which key."""

    good: bool
    signer: str = ""
    key: str = ""
    key_is_here: bool = True
    revoked: bool = False


def verify(folder: Path) -> Signed | None:
    """The signature of the seal in a folder; None where there is none, or nothing here that could verify it."""
    text, signature = folder / SEAL, folder / SIGNATURE
    if not (text.is_file() and signature.is_file()):
        return None
    kind = signature.read_bytes()[:40]
    return _by_gpg(text, signature) if kind.startswith(b"-----BEGIN PGP SIGNATURE") else _by_ssh(text, signature)


def _by_ssh(text: Path, signature: Path) -> Signed | None:
    done = _run(["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature)], text)
    if done is None:
        return None
    if done.returncode != 0:
        return Signed(False)
    key = found[1] if (found := re.search(r"with (\S+ key \S+)", done.stdout)) else ""
    setting = _run(["git", "-C", "/", "config", "--global", "--type=path", "--get", "gpg.ssh.allowedSignersFile"])
    allowed = setting.stdout.strip() if setting is not None else ""
    if not allowed or not Path(allowed).is_file():
        return Signed(True, key=key)
    asked = _run(["ssh-keygen", "-Y", "find-principals", "-s", str(signature), "-f", allowed])
    for name in asked.stdout.splitlines() if asked is not None and asked.returncode == 0 else ():
        command = ["ssh-keygen", "-Y", "verify", "-n", NAMESPACE, "-I", name, "-s", str(signature), "-f", allowed]
        checked = _run(command, text)
        if checked is not None and checked.returncode == 0:
            return Signed(True, name, key)
    return Signed(True, key=key)


def _by_gpg(text: Path, signature: Path) -> Signed | None:
    done = _run(["gpg", "--batch", "--no-auto-key-retrieve", "--status-fd", "1", "--verify", str(signature), str(text)])
    if done is None:
        return None
    status = dict(re.findall(r"^\[GNUPG:\] (GOODSIG|EXPKEYSIG|EXPSIG|REVKEYSIG|NO_PUBKEY) (.*)$", done.stdout, re.MULTILINE))
    if "NO_PUBKEY" in status:
        return Signed(False, key=status["NO_PUBKEY"], key_is_here=False)
    kind = next((kind for kind in FITTING if kind in status), "")
    key, _, name = status.get(kind, "").partition(" ")
    return Signed(bool(key), name + FITTING.get(kind, ""), f"gpg {key}", revoked=kind == "REVKEYSIG")


def _run(command: list[str], read: Path | None = None) -> subprocess.CompletedProcess[str] | None:
    """A command's end, with a file on its standard input; None where there is no such program."""
    try:
        with open(read or os.devnull, "rb") as file:
            return subprocess.run(command, stdin=file, capture_output=True, text=True, errors="replace")
    except OSError:
        return None
