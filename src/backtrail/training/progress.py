"""How far a long stage has come: a bar on a terminal, a plain line every tenth of the way in a log."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

logger = logging.getLogger(__name__)


@contextmanager
def progress(total: int, start: int = 0, unit: str = "step") -> Iterator[Callable[[int], None]]:
    """A function to call with the number of steps made."""
    began = time.perf_counter()
    every = max(1, total // 10)
    with tqdm(total=total, initial=start, unit=unit, leave=False, disable=not sys.stderr.isatty()) as bar:

        def tick(done: int) -> None:
            bar.update(done - bar.n)
            if bar.disable and done % every == 0:
                logger.info("%s %d of %d, %.0f s", unit, done, total, time.perf_counter() - began)

        yield tick
