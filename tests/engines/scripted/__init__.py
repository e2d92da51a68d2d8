"""Tests of `engines/scripted`."""
