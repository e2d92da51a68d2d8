"""Tests of the HTTP ingress."""
