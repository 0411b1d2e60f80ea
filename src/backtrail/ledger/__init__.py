"""What ran: `dvc.lock`, the stages' records, fingerprints of code, and the chains that they make."""
