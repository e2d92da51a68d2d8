"""KubeRay's own schema of a RayService, as strict as `kubectl apply`, which takes no field that it does not know."""

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

FILE = Path(__file__).parent / "ray.io_rayservices.yaml.gz"
SHA256 = "0a8fc325e6e22b9231c1f282b309555e2ecf94227ca20a03df3d1d9a403907ab"


@cache
def validator() -> Draft202012Validator:
    text = gzip.decompress(FILE.read_bytes())
    assert hashlib.sha256(text).hexdigest() == SHA256
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    _close(schema)
    # Of an object's own metadata a definition says nothing: Kubernetes knows it.
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def _close(schema: Any) -> None:
    """Refuses every field that no schema names."""
    if isinstance(schema, list):
        for item in schema:
            _close(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for item in schema.values():
            _close(item)


def problems(document: Any) -> list[str]:
    """What the schema says against a document."""
    return [f"{error.json_path}: {error.message}" for error in validator().iter_errors(document)]
