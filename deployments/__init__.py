"""Ray Serve: the engine and router deployments, the HTTP ingress, the Python handle."""
