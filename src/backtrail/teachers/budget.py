"""What one import of a foreign file may use in all, however small the file is that asks for it."""

from collections import Counter

from backtrail.teachers.reader import Refused

# The largest published EDM checkpoint needs under 150,000. A unit stands for at most 0.3 kB of objects and a few microseconds.
MAX_WORK = 1_000_000


class Budget:
    """Work and memory that is left to an import; whatever makes objects or repeats itself charges it before it does so.

    A limit in seconds would refuse genuine files on a slow disk: work is counted instead, the same on every machine.

    file_bytes  size of the file. What is decoded from it, its storages and its tensors may claim no more than that, each kind for itself:
                a genuine file holds all its numbers once.
    """

    def __init__(self, file_bytes: int, work: int = MAX_WORK):
        self.file_bytes, self.allowed, self.left = file_bytes, work, work
        self.claimed: Counter[str] = Counter()

    def spend(self, work: int) -> None:
        """Charge units of work: operations, items that are copied, objects by their size."""
        self.left -= work
        if self.left < 0:
            raise Refused(f"it asks for more than {self.allowed} units of work, several times what the largest published checkpoint needs")

    def claim(self, kind: str, size_bytes: int) -> None:
        """Charge memory to one kind of content, named in the plural."""
        self.claimed[kind] += size_bytes
        if self.claimed[kind] > self.file_bytes:
            raise Refused(f"its {kind} claim more than the {self.file_bytes} bytes of the file")
