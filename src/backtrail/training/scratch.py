"""Resume state on disk: a folder named by the recipe's key, files that are whole or passed over, never an output of a stage.

The key is a digest of everything that decides the result (stage, parameters, inputs, code), so that another parameter never finds another's
state. DVC's `persist` outputs are not keyed, which is why the state does not live in an output.
"""

import hashlib
import json
import logging
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from weakref import WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer

from backtrail.artifacts import atomic_write, drop_temporaries
from backtrail.errors import UserError
from backtrail.layout import FINISHED
from backtrail.tensors import load_tensors, save_tensors
from backtrail.training.state import TrainingState

logger = logging.getLogger(__name__)
KEPT = 2  # states kept: the newest, and the one before in case the newest is torn


class Scratch:
    """Writes and reads a run's state in `folder`; another thread copies the tensors and writes them.

    The copy is made while the next update computes its gradients, which changes nothing of the state: only an optimiser's step has to wait
    for it, by a hook.
    """

    def __init__(self, folder: str | Path, writes: bool = True):
        self.folder, self.writes = Path(folder), writes  # of several processes with the same state one writes it
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._copying: Future[None] | None = None
        self._writing: Future[None] | None = None
        self._copies: dict[str, Tensor] = {}
        self._hooked: WeakSet[Optimizer] = WeakSet()
        self.resumed_from: int | None = None

    def save(self, state: TrainingState, wait: bool = False) -> None:
        """Write the state as it is now. A save still under way is waited for first; an error of it is raised here.

        Between two updates; whoever changes the state's tensors before the next optimiser's step calls `copied` first.
        """
        if not self.writes:
            return
        self.finish()
        for optimiser in state.optimisers.values():
            if optimiser not in self._hooked:
                optimiser.register_step_pre_hook(lambda *_: self.copied())
                self._hooked.add(optimiser)
        # As text: the header that it goes into is sorted, and the order of a row's columns is part of what a stage writes.
        step, facts = state.step, json.dumps(state.facts())
        self._copying = self._writer.submit(self._copy, state.tensors())
        self._writing = self._writer.submit(self._write, step, facts)
        if wait:
            self.finish()

    def copied(self) -> None:
        """Wait until the state may change again."""
        if self._copying is not None:
            copying, self._copying = self._copying, None
            copying.result()

    def finish(self) -> None:
        """Wait for the save under way, if there is one. Raises UserError if the disk did not take it."""
        self.copied()
        if self._writing is not None:
            writing, self._writing = self._writing, None
            try:
                writing.result()
            except OSError as error:
                raise UserError(
                    f"the resume state could not be written to {self.folder} ({error.strerror}): free some space there"
                ) from None

    def restore(self, state: TrainingState) -> bool:
        """Bring `state` to the newest whole state in the folder; False if there is none. Torn files are named in the log and passed
        over."""
        for path in sorted(self.folder.glob("step-*.safetensors"), reverse=True):
            try:
                tensors, metadata = load_tensors(path)
                if _digest(metadata["facts"]) != metadata["facts_sha256"]:
                    raise UserError(f"{path} was damaged after it was written")
                state.restore(tensors, json.loads(metadata["facts"]))
            except (UserError, KeyError, RuntimeError) as error:
                logger.warning("resume state passed over: %s", str(error).splitlines()[0])
                continue
            self.resumed_from = state.step
            logger.info("resumed from step %d", state.step)
            return True
        return False

    def clear(self, result: str = "") -> None:
        """The stage has its result: drop the folder; or, where an engine has yet to take `result` over, all but the newest state.

        A kill between the two would else cost the whole training. `result` is what the note `finished` says then.
        """
        self.finish()
        self._writer.shutdown()
        states = sorted(self.folder.glob("step-*.safetensors"))
        if self.writes and result and states:
            for older in states[:-1]:
                older.unlink()
            atomic_write(self.folder / FINISHED, lambda file: file.write_text(result, encoding="utf-8"))
        elif self.writes:
            shutil.rmtree(self.folder, ignore_errors=True)

    @torch.no_grad()
    def _copy(self, tensors: dict[str, Tensor]) -> None:
        """Copy to the CPU, into the memory of the save before where it fits: asking for fresh memory takes longer than the copying."""
        before, self._copies = self._copies, {}
        for name, tensor in tensors.items():
            copy = before.get(name)
            if copy is None or (copy.shape, copy.dtype, copy.stride()) != (tensor.shape, tensor.dtype, tensor.stride()):
                copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._copies[name] = copy.copy_(tensor, non_blocking=True)
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.synchronize(device)

    def _write(self, step: int, facts: str) -> None:
        path = self.folder / f"step-{step:09d}.safetensors"
        save_tensors(path, self._copies, {"facts": facts, "facts_sha256": _digest(facts)})
        for old in sorted(self.folder.glob("step-*.safetensors"))[:-KEPT]:
            old.unlink()
        drop_temporaries([self.folder / "step-*.safetensors"])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
