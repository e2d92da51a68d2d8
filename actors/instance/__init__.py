"""An instance: one engine in one actor, with its place in the cluster."""
