"""Tests of `deployments/http/server`."""
