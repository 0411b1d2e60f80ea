"""NAME OUT: the package's training loop over one weight. The first attempt is slow, so that something can happen to it."""

import logging
import os
import sys
import time
from pathlib import Path

import torch
import yaml

from backtrail.errors import UserError
from backtrail.training.loop import run
from backtrail.training.scratch import Scratch
from backtrail.training.state import TrainingState


def main(name: str, out: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    weight = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.ones_(weight.weight)
    state, scratch = TrainingState({"net": weight}, {}), Scratch(Path(".scratch") / name)
    seconds = 0.0 if "TOY_RUNS" not in os.environ or list(scratch.folder.glob("step-*")) else 0.5

    def update(step: int) -> dict[str, float]:
        time.sleep(seconds)
        with torch.no_grad():
            weight.weight.mul_(0.99).add_(step)
        return {"loss": 1.0}

    for step, _ in run(state, update, yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["steps"], scratch):
        if "TOY_RUNS" in os.environ and step in (0, 1, (scratch.resumed_from or 0) + 1):
            with Path(os.environ["TOY_RUNS"]).open("a", encoding="utf-8") as runs:
                print(f"{name} step {step}", file=runs)
    out.parent.mkdir(exist_ok=True)
    out.write_text(f"{weight.weight.item()!r}\n", encoding="utf-8")
    scratch.clear()


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except UserError as error:
        sys.exit([print(f"train: {error}", file=sys.stderr), error.exit_code][1])
