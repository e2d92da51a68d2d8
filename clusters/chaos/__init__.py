"""Faults on purpose, under a load that shows each lost or repeated token."""
