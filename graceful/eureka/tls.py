"""The TLS context for Eureka servers with a private CA, or for those that want a client certificate."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

__all__ = ["TlsFileError", "client_context", "default_context"]


class TlsFileError(ValueError):
    """A file cannot be used.

    Attributes:
        setting: the setting that names it.
        problem: what is wrong with it, and what was expected.
    """

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting
        self.problem = problem


@cache
def default_context() -> ssl.SSLContext:
    """The one context that trusts the system's authorities, for all servers without settings of their own."""
    # Reading the certificate store takes tens of milliseconds: once is enough.
    return ssl.create_default_context()


def client_context(
    *,
    ca_file: str | None = None,
    cert_file: str | None = None,
    key_file: str | None = None,
    key_password: str | None = None,
) -> ssl.SSLContext:
    """A context that verifies certificate and host name, made of PEM files that are read now and not again.

    Args:
        ca_file: whom to trust, in place of the system's authorities.
        cert_file: the client certificate with its chain, and its key unless `key_file` has it.
        key_file: the key.
        key_password: of an encrypted key.

    Raises:
        TlsFileError: a file cannot be read, or holds something else. The password is not in it.
    """
    if ca_file is not None:
        _check_certificates("eureka_ca_file", ca_file)
    context = ssl.create_default_context(cafile=ca_file)
    if cert_file is not None:
        _check_certificates("eureka_client_cert_file", cert_file)
        if key_file is not None:
            _check_readable("eureka_client_key_file", key_file)
        _load_client_certificate(context, cert_file, key_file, key_password)
    return context


def _check_readable(setting: str, path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TlsFileError(setting, f"it cannot be read ({reason}): expected a PEM file in the container") from error


def _check_certificates(setting: str, path: str) -> None:
    _check_readable(setting, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsFileError(
            setting, "there is no certificate in it: expected a PEM file with -----BEGIN CERTIFICATE-----"
        ) from error


def _load_client_certificate(
    context: ssl.SSLContext, cert_file: str, key_file: str | None, key_password: str | None
) -> None:
    setting = "eureka_client_cert_file" if key_file is None else "eureka_client_key_file"
    encrypted = False

    def password() -> str:
        # Asked for an encrypted key only. Without a callable OpenSSL would ask at the terminal.
        nonlocal encrypted
        encrypted = True
        if key_password is None:
            raise TlsFileError(setting, "its key is encrypted: set eureka_client_key_password as well")
        return key_password

    try:
        context.load_cert_chain(cert_file, key_file, password)
    except TlsFileError:
        raise
    except (ssl.SSLError, ValueError) as error:  # ValueError: a password of more than 1023 bytes
        if encrypted:
            problem = "its key does not open with eureka_client_key_password"
        elif getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            problem = "its key belongs to another certificate than the first one in eureka_client_cert_file"
        else:
            where = "a PEM file with the key" if key_file else "the key in it too, or eureka_client_key_file"
            problem = f"there is no private key in it: expected {where} (-----BEGIN PRIVATE KEY-----)"
        raise TlsFileError(setting, problem) from error
