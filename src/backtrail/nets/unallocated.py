"""Networks that a foreign file describes, built without memory for their weights and with a limit on their modules."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from backtrail.errors import UserError

MAX_MODULES = 5_000  # the largest published network of pixels has about 1,000


@contextmanager
def unallocated(what: str) -> Iterator[None]:
    """Modules that are made inside have weights of shapes and dtypes alone (`torch.device("meta")`).

    Raises UserError, which calls the network's description `what`, as soon as more than MAX_MODULES have been put together.
    """
    n_modules = 0

    def count(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal n_modules
        n_modules += 1
        if n_modules > MAX_MODULES:
            raise UserError(f"{what} describes a network of more than {MAX_MODULES} modules, five times the largest that is known")

    hook = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"):
            yield
    finally:
        hook.remove()
