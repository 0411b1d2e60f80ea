"""The distillation methods, one module for each published object."""
