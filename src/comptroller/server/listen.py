"""Where a server listens: a socket, its address as people write it, and TLS. Bad ones in a line."""

import ipaddress
import os
import socket
import ssl
from pathlib import Path

import attrs

_BACKLOG = 2_048


@attrs.frozen
class Tls:
    """The files of a certificate and its key, and the key's password."""

    certificate: Path
    key: Path
    password: str | None = attrs.field(default=None, repr=False)


def tls(certificate: str | None, key: str | None, password_variable: str | None) -> Tls | None:
    """Return what the options mean; None for plain HTTP.

    Raises:
        ValueError: one without the other, or files that are not a certificate and its key.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ValueError("TLS takes both: --tls-cert FILE --tls-key FILE")
    password = None
    if password_variable is not None:
        password = os.environ.get(password_variable)
        if password is None:
            raise ValueError(
                f"--tls-key-password-env: {password_variable} is not set: set it with:"
                f" export {password_variable}=..."
            )
    given = Tls(Path(certificate), Path(key), password)
    for option, path in (("--tls-cert", given.certificate), ("--tls-key", given.key)):
        if not path.is_file():
            raise ValueError(f"{option} {path}: no such file")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.certificate, given.key, lambda: password or "")
    except (ssl.SSLError, OSError) as error:
        raise ValueError(
            f"{certificate} and {key} are no certificate and its key in PEM ({error}):"
            " is the key encrypted? then name its password with --tls-key-password-env NAME"
        ) from None
    return given


def listening(host: str, port: int) -> socket.socket:
    """Open a socket that listens.

    Raises:
        ValueError: a host that is none, or a port that somebody else has.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ValueError(
            f"--host {host}: {error.strerror or error}: write an address of yours"
        ) from None
    try:
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ValueError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}):"
            " choose another --host or --port (0: any free one)"
        ) from None
    # asyncio spares only sockets of a stated protocol the wait for a full packet (40 ms an answer)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url(listener: socket.socket, *, secure: bool) -> str:
    """Return the address, as clients are given it."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"


def open_to_others(listener: socket.socket) -> bool:
    """Whether other machines may reach it."""
    return not ipaddress.ip_address(listener.getsockname()[0]).is_loopback
