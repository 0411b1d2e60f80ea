"""The signature over the ledger's digests, and the digest of what is quoted from papers."""

from collections.abc import Iterator

from backtrail.artifacts import file_digest
from backtrail.audit.findings import ABSENT, BROKEN, STALE, UNBACKED, Finding
from backtrail.layout import LOCK_FILE
from backtrail.ledger.history import history
from backtrail.ledger.ledger import Ledger
from backtrail.ledger.seal import SEAL, SIGNATURE, paper_numbers, sealed_files, signed_paths, verify


def seals(ledger: Ledger) -> tuple[list[Finding], list[str]]:
    """What is wrong with the suite's seal, and by whom it was signed; nothing of a suite that has none.

    A finding stands for itself: the numbers are not wrong for it.
    """
    text, link, cure = ledger.folder / SEAL, f"{SIGNATURE} -> {SEAL}", "backtrail export FOLDER --sign KEY"
    if not (text.is_file() and (ledger.folder / SIGNATURE).is_file()) and (dropped := taken_away(ledger)):
        message = f"{SEAL} was signed in commit {dropped[:12]}, and it or its signature is not here: the ledger may have changed since"
        return [Finding(UNBACKED, f"{SEAL}:signature", f"git -> {SEAL}", message, cure)], []
    if not text.is_file():
        return [], ["nobody has signed this ledger: `backtrail export FOLDER --sign KEY`"]
    signed = verify(ledger.folder)
    if signed is None:
        return [], [f"{SEAL} has no signature, or neither ssh-keygen nor gpg is here to verify it: nobody vouches for this ledger"]
    if not signed.key_is_here:
        message = f"{SIGNATURE} is of the gpg key {signed.key}, which is not in this keyring: it cannot be verified here"
        return [Finding(ABSENT, f"{SEAL}:signature", link, message, f"gpg --receive-keys {signed.key}", absent=True)], []
    if not signed.good:
        by = f", by {signed.key}" if signed.key else ""
        return [Finding(BROKEN, f"{SEAL}:signature", link, f"the signature of {SEAL}{by} is not good: one of both was changed", cure)], []
    if signed.revoked:
        message = f"the signature of {SEAL} is by {signed.signer} ({signed.key}), whose key was revoked: nobody vouches for it any more"
        return [Finding(UNBACKED, f"{SEAL}:signature", link, message, cure)], []
    sealed = sealed_files(text.read_text(encoding="utf-8", errors="replace"))
    unlike = [path for path, digest in sealed.items() if not _is(ledger, path, digest)]
    if unlike or LOCK_FILE not in sealed:
        message = f"{SEAL} was signed for another ledger: {', '.join(unlike) or f'it does not name {LOCK_FILE}'}"
        return [Finding(STALE, f"{SEAL}:files", f"{SEAL} -> {(unlike or [SEAL])[0]}", message, cure)], []
    trust = "" if signed.signer else ", which nobody vouches for here (git's gpg.ssh.allowedSignersFile names whom you trust)"
    return [], [f"signed by {signed.signer or 'the holder of a key'} ({signed.key}){trust}: {', '.join(sealed)}"]


def taken_away(ledger: Ledger) -> str:
    """The newest commit that holds a signed seal, of a suite that has none; empty where there never was one."""
    past = history(ledger.folder, SIGNATURE)
    return next((name for name in past.commits if past.contents[name] is not None), "")


def _is(ledger: Ledger, path: str, digest: str) -> bool:
    """Whether a file has a digest; one that no ledger is signed with is not read, whoever signed for it."""
    place = ledger.folder / path
    return path in signed_paths(ledger) and place.is_file() and file_digest(place) == digest


def papers_digest(ledger: Ledger) -> Iterator[str]:
    """A line with the digest of the numbers that the suite's code quotes from papers: to be held against that of another copy."""
    path = paper_numbers(ledger)
    if (ledger.folder / path).is_file():
        yield f"what is quoted from papers: {path}, sha256 {file_digest(ledger.folder / path)}"
