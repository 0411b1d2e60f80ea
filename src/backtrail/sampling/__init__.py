"""Noise schedules and the solvers of the probability-flow ODE."""
