"""Data: where every outside file comes from, its verification, and how it becomes the data set of a suite."""
