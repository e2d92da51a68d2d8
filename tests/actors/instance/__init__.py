"""Tests of `actors/instance`."""
