"""Operators: engines built around another engine."""
