"""`python -m backtrail`, or `python PATH/TO/backtrail`: the command line."""

import sys
from pathlib import Path

if not __package__:  # started by its folder or file: the package that lies there runs, and not one that may be installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])
elif Path(sys.path[0]).resolve() == Path.cwd():  # started by `-m`: a suite's folder is no place to import a `numpy.py` from
    del sys.path[0]

from backtrail.cli import main

if __name__ == "__main__":
    main()
