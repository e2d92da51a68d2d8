"""How many instances each model should have, from what the router replicas report of it.

Serve carries this package into its controller by value. What it takes by its name is exported here, since Serve takes
along what is in the package of that name, and nothing else.
"""

from deployments.scaling.policy import FleetPolicy, keep

__all__ = ["FleetPolicy", "keep"]
