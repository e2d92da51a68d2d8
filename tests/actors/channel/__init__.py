"""Tests of `actors/channel`."""
