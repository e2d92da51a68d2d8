"""What a cluster asks of a router: whether it lives, whether it is ready."""
