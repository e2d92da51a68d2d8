"""Tenants: who may ask for what, and where that is written. Knows neither HTTP nor Ray."""
