"""The file of tenants and the hashes of their keys: what stands in it, and who holds a key."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import Field, ValidationError, model_validator

from actors.settings import Settings
from deployments.settings_file.problems import (
    SettingsFileError,
    keys_of,
    read_mapping,
    schema_problem,
    yaml_problems,
)
from deployments.tenants.tenant import KeyHash, Tenant

MAX_BYTES = 4 * 2**20
"""Some ten thousand tenants; what is larger is no file of keys."""


class KeyFile(Settings):
    """The file's schema.

    Attributes:
        tenants: Who may ask.
    """

    tenants: list[Tenant] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_is_there_once(self) -> Self:
        names: set[str] = set()
        holders: dict[str, str] = {}
        for tenant in self.tenants:
            if tenant.name in names:
                raise ValueError(f"two tenants are called {tenant.name!r}")
            names.add(tenant.name)
            for key in tenant.keys:
                if key.sha256 in holders:
                    raise ValueError(f"{tenant.name} has a key that {holders[key.sha256]} has, too: {key.sha256[:8]}")
                holders[key.sha256] = tenant.name
        return self


@dataclass(frozen=True, slots=True)
class Holder:
    """A tenant, and the key with which it came.

    Attributes:
        tenant: Who.
        key: Which of its keys.
    """

    tenant: Tenant
    key: KeyHash


Holders = Mapping[str, Holder]
"""Who holds which key, by the SHA-256 of it."""


def parse_keys(text: str, name: str) -> Holders:
    """Who holds which key.

    Args:
        text: YAML.
        name: What errors call the file.

    Raises:
        SettingsFileError: Something in it is wrong.
    """
    file = parse_key_file(text, name)
    return {key.sha256: Holder(tenant, key) for tenant in file.tenants for key in tenant.keys}


def parse_key_file(text: str, name: str) -> KeyFile:
    """What stands in the file.

    Args:
        text: YAML.
        name: What errors call the file.

    Raises:
        SettingsFileError: Something in it is wrong.
    """
    document = read_mapping(text, name, needs="tenants")
    problems = yaml_problems(document)
    file: KeyFile | None = None
    try:
        file = KeyFile.model_validate(document.value)
    except ValidationError as error:
        problems += [schema_problem(details, keys_of(KeyFile), document) for details in error.errors()]
    if problems or file is None:
        raise SettingsFileError(name, problems)
    return file


def hash_of(key: bytes) -> str:
    """The SHA-256 of a key, in hexadecimal. Keys are long and random: a slow hash would protect nothing more."""
    return hashlib.sha256(key).hexdigest()
