"""Tests of `actors/directory`."""
