"""DisBack (arXiv 2408.15991) and Diff-Instruct, which is DisBack along a path of one node."""
