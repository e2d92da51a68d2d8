"""Tests of `engines/operators`."""
