"""SFD and SFD-v (arXiv 2409.19681), and Algorithm 1, which is SFD with another input."""
