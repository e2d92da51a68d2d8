"""What one node of a cluster has, as a program on it finds out.

It is sent to the node by value, where Penstock may not be installed: it knows nothing but the standard library.
"""

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import socket
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import urlsplit

_DATABASE_S = 10.0


class Questions(TypedDict):
    """What is to be found out.

    Attributes:
        packages: Packages, by the names that they are imported by.
        files: Absolute paths.
        variables: Environment variables.
        database_url: URL of a database without a password; empty: none.
        database_variable: Or the variable that holds it; empty: none.
    """

    packages: list[str]
    files: list[str]
    variables: list[str]
    database_url: str
    database_variable: str


class NodeReport(TypedDict):
    """What was found.

    Attributes:
        python: Version of Python.
        ray: Version of Ray.
        penstock: Version of Penstock; empty: it is not installed.
        asks_for_token: Whether this node's Ray asks for a token.
        keeps_state: Whether the control service outlives its process; meant on the head only.
        packages: Those that are missing.
        files: Those that are missing, or cannot be read.
        variables: Those that are not set, or empty.
        database: Why the database cannot be reached; empty: it can, or none was asked for.
    """

    python: str
    ray: str
    penstock: str
    asks_for_token: bool
    keeps_state: bool
    packages: list[str]
    files: list[str]
    variables: list[str]
    database: str


def probe(questions: Questions) -> NodeReport:
    """Finds out."""
    environment = os.environ
    url = questions["database_url"] or environment.get(questions["database_variable"], "")
    return {
        "python": platform.python_version(),
        "ray": _version("ray"),
        "penstock": _version("penstock"),
        "asks_for_token": environment.get("RAY_AUTH_MODE", "").strip().lower() not in ("", "disabled"),
        "keeps_state": bool(environment.get("RAY_REDIS_ADDRESS"))
        or environment.get("RAY_gcs_storage", "") not in ("", "memory"),  # As Ray writes it.
        "packages": [package for package in questions["packages"] if not is_installed(package)],
        "files": [file for file in questions["files"] if not _is_readable(Path(file))],
        "variables": [variable for variable in questions["variables"] if not environment.get(variable)],
        "database": _database_problem(url) if url else "",
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def is_installed(package: str) -> bool:
    """Whether a package is there, by the name that it is imported by."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # what it is a part of is not installed
        return False


def _is_readable(path: Path) -> bool:
    try:
        return os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK)
    except OSError:
        return False


def _database_problem(url: str) -> str:
    """Why nobody can log in there; without what the URL holds, which may be a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 5432
    except ValueError:
        return "its URL is none"
    if not host:
        return "its URL is none"
    where = f"{host}:{port}"
    try:
        socket.create_connection((host, port), _DATABASE_S).close()
    except OSError as error:
        return f"{where}: {error.strerror or type(error).__name__}"
    if not is_installed("asyncpg"):  # Which is said besides.
        return ""
    return asyncio.run(_login_problem(url, where))


async def _login_problem(url: str, where: str) -> str:
    asyncpg: Any = __import__("asyncpg")
    try:
        connection = await asyncpg.connect(url, timeout=_DATABASE_S)
        await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return f"{where}: {type(error).__name__}"
    return ""
