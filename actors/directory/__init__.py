"""The directory: who serves what, where."""
