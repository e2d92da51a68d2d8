"""Responses that are made in the background, by any router replica, and outlive the one that makes them."""
