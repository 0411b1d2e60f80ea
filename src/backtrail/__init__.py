"""backtrail: distil diffusion models into one-step and few-step generators, with every number traceable to bytes."""

__version__ = "0.1.0"
