"""Questions put to a ledger: is every byte the one that it names, what rests on what, where do two runs part."""
