"""Tables as files: CSV. Apart from `artifacts.py`, so that a stage without a table need not load pandas."""

from pathlib import Path

import pandas as pd

from backtrail.artifacts import atomic_write
from backtrail.errors import UserError


def save_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table with nine significant digits, enough for a float32 to survive."""
    atomic_write(path, lambda file: table.to_csv(file, index=False, float_format="%.9g", lineterminator="\n"))


def load_csv(path: str | Path) -> pd.DataFrame:
    """Read a table that `save_csv` wrote. Raises UserError if the file is absent or empty."""
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that makes it (`dvc repro`), or `dvc pull`") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a table ({error}): delete it and run the stage again") from None
