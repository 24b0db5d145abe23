"""Comparisons with the baselines, on the same machine in the same run."""
