"""`penstock keys`: makes, lists, revokes and sends the keys of tenants."""

import os
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from clusters.boot_screen import plain_table
from clusters.errors import ClusterError
from deployments.loopback_ray import prepare_to_join
from deployments.run_file import find_fleet
from deployments.settings_file.problems import read_text
from deployments.tenants.key_entries import entry, new_key, without_key
from deployments.tenants.key_file import MAX_BYTES, parse_key_file
from deployments.tenants.tenant import Tenant

keys_app = typer.Typer(no_args_is_help=True, help="Makes, lists, revokes and sends API keys.")

FileArgument = Annotated[Path, typer.Argument(metavar="KEYS.yaml", help="The file that http.keys.file names.")]
_ID_CHARS = 8


@keys_app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The tenant's.")],
    expires: Annotated[str | None, typer.Option(help="The last day on which it is good, as 2027-06-30.")] = None,
) -> None:
    """Prints a new key, once, and what to write into the file."""
    try:
        Tenant(name=name)
    except ValidationError:
        message = f"NAME: {name!r} is none; a name is letters, digits, dots, dashes and underscores."
        raise ClusterError(message) from None
    try:
        day = None if expires is None else date.fromisoformat(expires)
    except ValueError:
        raise ClusterError(f"--expires: {expires!r} is no day; one looks like 2027-06-30.") from None
    key = new_key()
    typer.echo(f"The key, which is shown this once:\n\n{key}\n")
    typer.echo("For the file that http.keys.file names; a tenant that is there already gets one more line of `keys`:\n")
    typer.echo("tenants:\n" + entry(name, key, day), nl=False)


@keys_app.command(name="list")
def list_keys(file: FileArgument) -> None:
    """Shows who has which keys, by the first digits of their hashes, and checks the file."""
    tenants = parse_key_file(read_text(file), str(file)).tenants
    table = plain_table()
    for column in ("tenant", "key", "expires", "scopes", "models"):
        table.add_column(column)
    now = datetime.now(UTC)
    for tenant in tenants:
        for key in tenant.keys:
            end = "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}"
            if key.is_expired(now):
                end += " (over)"
            table.add_row(tenant.name, key.sha256[:_ID_CHARS], end, *_what(tenant))
        if not tenant.keys:
            table.add_row(tenant.name, "none", "", *_what(tenant))
    Console().print(table)


@keys_app.command()
def revoke(
    file: FileArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The first digits of its hash, as `list` shows them.")],
) -> None:
    """Takes a key out of the file: within seconds it is refused, and what runs with it ends."""
    text, tenant = without_key(read_text(file), str(file), key)
    _replace(file, text)
    Console().print(f"The key {key} of {tenant} is revoked.", highlight=False)


@keys_app.command()
def push(
    file: FileArgument,
    port: Annotated[int | None, typer.Option(help="Port of the local fleet, where several run.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster of a fleet that is not local.")] = None,
    name: Annotated[str, typer.Option(help="Name of that fleet.")] = "penstock",
) -> None:
    """Sends the file to a running fleet with `http: {keys: {pushed: true}}`; its Ray cluster keeps it."""
    text = read_text(file, MAX_BYTES)
    tenants = len(parse_key_file(text, str(file)).tenants)
    if address is None:
        local = find_fleet(port)
        name, address = local.name, local.ray_address
    prepare_to_join(address)
    from clusters.key_push import push_keys  # It imports Ray, which reads the environment.

    push_keys(address, name, text)
    Console().print(f"{tenants} tenants: every router of {name} has them within seconds.", highlight=False)


def _what(tenant: Tenant) -> tuple[str, str]:
    return ", ".join(tenant.scopes), "all" if tenant.models is None else ", ".join(tenant.models)


def _replace(file: Path, text: str) -> None:
    """Writes the file anew: whoever reads it meanwhile sees the old or the new one, whole."""
    target = file.resolve()
    try:
        handle, new = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), target.stat().st_mode & 0o777)
            out.write(text)
        Path(new).replace(target)
    except OSError as error:
        raise ClusterError(f"{file} cannot be written: {error.strerror}") from None
