"""Tokens and certificates as they lie in files: read, checked, and a token made where there is none.

Both ends use it: the daemon for what it asks of callers and shows them, clients for what they show. Knows no gRPC.

Invariants:
- What a secret file holds is in no error: what is not a token may be one with a slip in it.
- A token or key that others could read is not used, for they may have done so.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from stigmer import names
from stigmer.config import Tls
from stigmer.errors import InvalidArgument

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

TOKEN_FILE = "token"
TOKEN_VARIABLE = "STIGMER_TOKEN"
TOKEN_FILE_VARIABLE = "STIGMER_TOKEN_FILE"

_TOKEN_BYTES = 32
_TOKEN_CHARACTERS_MIN = 32
"""Of the daemon's own. Whoever shows one shows what there is."""
_TOKEN_CHARACTERS_MAX = 512
_FILE_BYTES_MAX = 1 << 20

_is_token = re.compile(r"[\x21-\x7e]+", re.ASCII).fullmatch


# --- tokens ------------------------------------------------------------------------------------------------


def check_token(token: str, origin: str, characters_min: int = 1) -> str:
    """Give a token back, or raise `InvalidArgument` naming where it is from."""
    if not _is_token(token) or not characters_min <= len(token) <= _TOKEN_CHARACTERS_MAX:
        raise InvalidArgument(
            origin,
            f"is not a token: one line of {characters_min} to {_TOKEN_CHARACTERS_MAX} visible ASCII characters",
            hint="make one: openssl rand -base64 32",
        )
    return token


def read_token(path: str, origin: str) -> str:
    """Read a token that a client is to show."""
    return check_token(_text_of(_read(path, origin)), f"{origin}: {path}")


def make_token(path: str, origin: str) -> bool:
    """Make the token that the daemon asks for, durably and readable by us alone, and say whether it was made; where
    something is there it is left alone.

    Raises `InvalidArgument` where the file cannot be made.
    """
    if os.path.lexists(path):
        return False
    _make_token(path, origin)
    return True


def read_own_token(path: str, origin: str) -> str:
    """Read the token that the daemon asks for.

    Raises `InvalidArgument` where the file cannot be used, is open to others, or does not hold a token.
    """
    text = _text_of(_read(path, origin, is_secret=True))
    return check_token(text, f"{origin}: {path}", _TOKEN_CHARACTERS_MIN)


def _make_token(path: str, origin: str) -> None:
    token = base64.urlsafe_b64encode(os.urandom(_TOKEN_BYTES)).rstrip(b"=")
    # Several daemons may share a file, so each has a temporary name of its own.
    temporary = f"{path}.{os.getpid()}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(token + b"\n")
                file.flush()
                os.fsync(fd)
            # A link, unlike a renaming, never takes the place of what is there.
            os.link(temporary, path)
        except FileExistsError:
            pass  # somebody was quicker
        finally:
            os.unlink(temporary)
    except OSError as error:
        raise InvalidArgument(
            origin,
            f"{path} is not there and cannot be made: {error.strerror}",
            hint="make its directory, or name another with --token-file",
        ) from error


def _text_of(content: bytes) -> str:
    return content.decode("utf-8", "replace").strip()


def token_from(environ: Mapping[str, str]) -> str | None:
    """Give the token of the environment, from `STIGMER_TOKEN` or the file that `STIGMER_TOKEN_FILE` names."""
    token = environ.get(TOKEN_VARIABLE)
    if token:
        return check_token(token, TOKEN_VARIABLE)
    path = environ.get(TOKEN_FILE_VARIABLE)
    return read_token(os.path.expanduser(path), TOKEN_FILE_VARIABLE) if path else None


# --- TLS ---------------------------------------------------------------------------------------------------


class Pair(msgspec.Struct, frozen=True):
    """A certificate, with those that lead from it to an authority, and its key: both PEM."""

    certificates: bytes
    key: bytes
    valid_until: datetime

    def days_left(self) -> float:
        """Give the days until the certificate ends."""
        return (self.valid_until - datetime.now(UTC)).total_seconds() / 86_400


def read_pair(cert_path: str, key_path: str, cert_origin: str, key_origin: str) -> Pair:
    """Read a certificate and its key. Raises `InvalidArgument` where one is not usable now, or not the other's."""
    from cryptography.hazmat.primitives import serialization

    content = _read(cert_path, cert_origin)
    certificate = _certificates(content, cert_path, cert_origin)[0]
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        raise InvalidArgument(cert_origin, f"{cert_path} expired at {_when(certificate.not_valid_after_utc)}")
    if now < certificate.not_valid_before_utc:
        raise InvalidArgument(cert_origin, f"{cert_path} is not valid before {_when(certificate.not_valid_before_utc)}")
    key_content = _read(key_path, key_origin, is_secret=True)
    try:
        key = serialization.load_pem_private_key(key_content, None)
    except TypeError as error:
        raise InvalidArgument(
            key_origin,
            f"{key_path} is encrypted",
            hint=f"write it in the clear to a file of your own: openssl pkey -in {key_path}",
        ) from error
    except Exception as error:  # of several libraries
        raise InvalidArgument(key_origin, f"{key_path} holds no private key in PEM") from error
    if key.public_key() != certificate.public_key():
        raise InvalidArgument(key_origin, f"{key_path} is not the key of the certificate in {cert_path}")
    return Pair(content, key_content, certificate.not_valid_after_utc)


def read_authorities(path: str, origin: str) -> bytes:
    """Read the certificates of authorities. Raises `InvalidArgument` where none of them is valid now."""
    content = _read(path, origin)
    now = datetime.now(UTC)
    if all(now > one.not_valid_after_utc for one in _certificates(content, path, origin)):
        raise InvalidArgument(origin, f"every certificate in {path} has expired")
    return content


def _certificates(content: bytes, path: str, origin: str) -> list[Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise InvalidArgument(origin, f"{path} holds no certificate in PEM") from error


def tls_from(environ: Mapping[str, str]) -> Tls | None:
    """Give what the environment says of TLS: `STIGMER_TLS_CA`, and for mTLS `STIGMER_TLS_CERT`, `STIGMER_TLS_KEY`."""
    ca, cert, key = (
        os.path.expanduser(environ.get(f"STIGMER_TLS_{name}", "")) or None for name in ("CA", "CERT", "KEY")
    )
    return Tls(ca, cert, key) if ca is not None else None


def _when(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


# --- files -------------------------------------------------------------------------------------------------


def _read(path: str, origin: str, *, is_secret: bool = False) -> bytes:
    """Read a small file; a secret one only where it is closed to others."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if is_secret and is_open_to_others(status):
                raise InvalidArgument(
                    origin,
                    f"others have access to {path} (mode {stat.S_IMODE(status.st_mode):04o})",
                    hint=f"chmod 600 {path}; if others may have read it, replace what is in it",
                )
            return file.read(_FILE_BYTES_MAX)
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "is no path"
        raise InvalidArgument(origin, f"{names.shown(path)} cannot be read: {problem}") from error


def is_open_to_others(status: os.stat_result) -> bool:
    """Say whether others than the owner get at a file. The group may read what another user, such as root, gives us."""
    allowed = 0o700 if status.st_uid == os.geteuid() else 0o740
    return bool(stat.S_IMODE(status.st_mode) & 0o777 & ~allowed)
