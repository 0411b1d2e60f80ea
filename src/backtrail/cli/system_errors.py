"""What the machine does to a process, whichever command runs: each is one sentence, or no harm."""

import errno
import os
import re
import resource

MISTAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.EIO)


def system_error_sentence(error: BaseException) -> str | None:
    """A sentence for what the machine or a file's content did to us, whichever file it was; None for what may be our own fault."""
    if isinstance(error, OSError):
        place = shown(error.filename) if error.filename else "a file"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            return f"{place} could not be written: {error.strerror}; what was there before is untouched"
        if error.errno in (errno.EACCES, errno.EPERM):
            return f"{place} may not be read or written by you: {error.strerror}; what was there before is untouched"
        if error.errno in MISTAKEN:
            return f"{place} is not what it should be: {error.strerror}"
    if isinstance(error, UnicodeDecodeError):
        return f"a text file is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}): save it as UTF-8"
    return _of_memory(error)


def shown(path: object) -> str:
    """A file's name as one line of a terminal can show it."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def _of_memory(error: BaseException) -> str | None:
    """What was asked of the memory in vain, beside what the process had; None for another error.

    numpy names it in a MemoryError, torch in a RuntimeError, in bytes for a CPU and in GiB for a GPU; Python itself says nothing.
    """
    asked = re.search(r"(?i)(?:tried|unable) to allocate ([\d.]+) (\w+)", str(error))
    if not isinstance(error, MemoryError) and not (asked and isinstance(error, RuntimeError)):
        return None
    size = f"{int(asked[1]) / 1e6:,.0f} MB" if asked and asked[2] == "bytes" else asked and f"{asked[1]} {asked[2]}"
    what = f"{size} were asked for" if size else str(error) or "more was asked for"
    had = f"{most_memory_mb():,.0f} MB"
    return (
        f"not enough memory: {what}, beside the {had} that this process had at most: smaller batches (batch, batch_size, "
        "runtime.micro_batch) need less; on a cluster resources.*.mem_mb gives more"
    )


def most_memory_mb() -> float:
    """The most memory that this process has had. Linux counts a parent's into `getrusage`, which the kernel's own account does not."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1e3
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kB


def open_standard_streams() -> None:
    """A closed stream's number would be given to the next file that is opened, and what some library prints be written into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
