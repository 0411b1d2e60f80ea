"""Several processes on one batch, and several passes: which rows are whose, and how gradients are added up.

Every process draws the whole batch's numbers and takes its rows, so sample i has the same noise wherever it is computed. Gradients are
those of the mean over the whole batch: each pass weighs by its share, and an update adds up the passes of all processes first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from backtrail.errors import UserError
from backtrail.randomness import Part


@dataclass(frozen=True)
class Group:
    """The processes of a run (`torch.distributed`, started by torchrun) and this one's place among them.

    micro_batch: images per pass at the most; None is all the rows of a process at once.
    """

    rank: int = 0
    processes: int = 1
    micro_batch: int | None = None

    def parts(self, batch: int) -> list[Part]:
        """This process's parts of a batch. Raises UserError if the batch cannot be divided among the processes."""
        if batch % self.processes:
            raise UserError(f"batch = {batch} cannot be divided among {self.processes} processes: choose a multiple, or other processes")
        n = batch // self.processes
        first, step = self.rank * n, self.micro_batch or n
        return [Part(slice(k, min(k + step, first + n)), batch) for k in range(first, first + n, step)]

    def own(self, batch: int) -> Part:
        """All the rows of this process."""
        parts = self.parts(batch)
        return Part(slice(parts[0].rows.start, parts[-1].rows.stop), batch)

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; all travel in one piece."""
        if self.processes == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.reshape(tensor.shape))

    def total(self, value: float, device: torch.device | str = "cpu") -> float:
        """The sum of a number over the processes."""
        if self.processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(tensor)
        return tensor.item()

    def totals(self, values: dict[str, Tensor]) -> dict[str, float]:
        """The sums of several numbers over the processes, in float64; a GPU is waited for once."""
        stacked = torch.stack([value.double() for value in values.values()])
        self.add_up([stacked])
        return dict(zip(values, stacked.tolist(), strict=True))


ALONE = Group()
