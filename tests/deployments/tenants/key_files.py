"""Files of keys, as tests write them."""

from typing import Any

import yaml

from deployments.tenants.key_file import hash_of


def key_file(**tenants: Any) -> str:
    """A file of tenants by name; each has the key `NAME-key`, unless it says otherwise."""
    return yaml.safe_dump(
        {
            "tenants": [
                {"name": name, "keys": [{"sha256": hash_of(f"{name}-key".encode())}], **fields}
                for name, fields in tenants.items()
            ]
        }
    )
