"""Edited images scored as the published editing benchmarks do, PIE-Bench and DreamEditBench, and as they should."""
