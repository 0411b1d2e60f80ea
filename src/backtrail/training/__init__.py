"""The loop that every stage with an optimiser shares: randomness by step, exact resume, EMA."""
