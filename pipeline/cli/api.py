"""`imagepipe api`, and `imagepipe api-key`, which makes its keys."""

import ipaddress
import json
import socket
from typing import Annotated

import typer

from pipeline import logs, wiring
from pipeline.api import keys, server
from pipeline.api.app import create_app
from pipeline.api.keys import Scope
from pipeline.cli.worker import refuse_unmigrated
from pipeline.settings import Settings, SettingsError, load


def api() -> None:
    """Serve the HTTP API; workers make the pictures. Any number of them behind a balancer.

    Needs DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS. Listens on IMAGEPIPE_API_HOST and
    IMAGEPIPE_API_PORT; without IMAGEPIPE_API_KEYS on loopback only.

    Example: IMAGEPIPE_API_PORT=8080 imagepipe api
    """
    settings = load()
    parts = wiring.api(settings)
    if not parts.keys and not _is_loopback(settings.api_host):
        raise SettingsError(
            f"IMAGEPIPE_API_HOST: {settings.api_host} can be reached by others, and there are no"
            " IMAGEPIPE_API_KEYS: make one with imagepipe api-key, or listen on 127.0.0.1"
        )
    refuse_unmigrated(settings)
    logs.configure(settings.log_format)
    app = create_app(parts)
    listening = _bind(settings)
    host, port = listening.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    who = "those with an API key" if parts.keys else "this machine alone: there are no API keys"
    typer.echo(f"imagepipe API on http://{address}:{port}, for {who}", err=True)
    server.serve(app, parts, listening)


def _bind(settings: Settings) -> socket.socket:
    try:
        return server.bind(settings.api_host, settings.api_port)
    except OSError as error:
        raise SettingsError(
            f"IMAGEPIPE_API_HOST, IMAGEPIPE_API_PORT: cannot listen on {settings.api_host} port"
            f" {settings.api_port}: {error.strerror} (for example IMAGEPIPE_API_PORT=0)"
        ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def api_key(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, _ . -")],
    scopes: Annotated[
        list[Scope] | None, typer.Option("--scope", help="May be given twice; default: both.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Make a key for the HTTP API: the key for its user, its hash for IMAGEPIPE_API_KEYS.

    The key is shown once and kept nowhere.

    Example: imagepipe api-key cms --scope generate --scope read
    """
    try:
        secret, key = keys.new_key(name, frozenset(scopes or Scope))
    except ValueError:
        raise SettingsError(f"{name!r}: a name has 1 to 50 letters, digits, _ . or -") from None
    if as_json:
        typer.echo(json.dumps({"name": key.name, "key": secret, "entry": str(key)}, indent=2))
        return
    typer.echo(f"Key, for whoever asks (Authorization: Bearer KEY):  {secret}")
    typer.echo(f"Entry of IMAGEPIPE_API_KEYS, separated by commas:    {key}")
