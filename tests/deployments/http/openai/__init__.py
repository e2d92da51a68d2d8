"""Tests of `deployments/http/openai`."""
