"""Figures, tables and the HTML report: everything that turns the metric files of a suite into something to read."""
