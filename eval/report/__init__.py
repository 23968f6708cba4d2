"""Scores -> statistics, tables, plots and the report."""
