"""How good samples are: features, Frechet distance, KID, precision and recall, mismatch degree."""
