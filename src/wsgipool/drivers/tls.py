"""The TLS options of MySQL and MariaDB, with one meaning for every driver.

The modes are those of the mysql program. A certificate authority in the URL means that its signature and the server's
name are verified, unless the URL says otherwise. Contradictory options and unusable files are refused when the settings
are read, and not at a visitor's request.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from wsgipool.drivers import url_files
from wsgipool.errors import ConfigError
from wsgipool.showing import shown


class Mode(Enum):
    """The TLS that a connection requires."""

    DISABLED = "DISABLED"
    """No TLS."""
    PREFERRED = "PREFERRED"
    """TLS if the server offers it, with any certificate. The default."""
    REQUIRED = "REQUIRED"
    """TLS, with any certificate."""
    VERIFY_CA = "VERIFY_CA"
    """TLS, with a certificate signed by the authority."""
    VERIFY_IDENTITY = "VERIFY_IDENTITY"
    """TLS, with a certificate signed by the authority for the host in the URL."""


_VERIFYING = (Mode.VERIFY_CA, Mode.VERIFY_IDENTITY)

OPTIONS = (
    "ssl_mode", "ssl_disabled", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_key_password", "ssl_verify_cert",
    "ssl_verify_identity",
)  # fmt: skip
"""The options that `read` takes."""


@dataclass(frozen=True)
class TLS:
    """A mode and its files, which have been checked."""

    mode: Mode = Mode.PREFERRED
    ca: str | None = None
    capath: str | None = None
    """A folder of certificates, named by their hashes (`openssl rehash`)."""
    cert: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)

    @property
    def is_required(self) -> bool:
        """Whether a connection without TLS is refused."""
        return self.mode not in (Mode.DISABLED, Mode.PREFERRED)

    def context(self) -> ssl.SSLContext:
        """Return the context for a mode that requires TLS."""
        if self.mode in _VERIFYING:
            # Without an authority this uses the system's.
            context = ssl.create_default_context(cafile=self.ca, capath=self.capath)
            # Python 3.13 checks certificates strictly; those that MySQL makes for itself do not pass.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            context.check_hostname = self.mode is Mode.VERIFY_IDENTITY
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key, self.key_password)
        return context


def read(options: Mapping[str, Any], wheres: Mapping[str, str]) -> TLS:
    """Return the meaning of the given options.

    Args:
        options: Those of `OPTIONS` that are given.
        wheres: The place of each option, with which an error message begins.

    Raises:
        ConfigError: Options contradict each other, or a file cannot be used.
    """
    mode = _mode(options, wheres)
    _check_client_certificate(options, wheres)
    if "ssl_ca" in options:
        check_authorities(options["ssl_ca"], f"{wheres['ssl_ca']}: ssl_ca")
    if "ssl_capath" in options:
        _check_folder(options["ssl_capath"], f"{wheres['ssl_capath']}: ssl_capath")
    cert = options.get("ssl_cert")
    return TLS(
        mode,
        options.get("ssl_ca"),
        options.get("ssl_capath"),
        cert,
        options.get("ssl_key", cert),
        options.get("ssl_key_password"),
    )


def _mode(options: Mapping[str, Any], wheres: Mapping[str, str]) -> Mode:
    asked = Mode(options["ssl_mode"]) if "ssl_mode" in options else None
    disabled = options.get("ssl_disabled")
    if disabled is False and asked is Mode.DISABLED:
        raise _contradiction(wheres, "ssl_disabled", "ssl_disabled=false and ssl_mode=DISABLED", "leave one out")
    if disabled:
        if asked not in (None, Mode.DISABLED):
            raise _contradiction(
                wheres, "ssl_disabled", f"ssl_disabled=true and ssl_mode={asked.value}", "leave one out"
            )
        asked = Mode.DISABLED
    authority = next((name for name in ("ssl_ca", "ssl_capath") if name in options), None)
    verify_cert, verify_identity = options.get("ssl_verify_cert"), options.get("ssl_verify_identity")
    verifies = authority or ("ssl_verify_identity=true" if verify_identity else None)
    verifies = verifies or ("ssl_verify_cert=true" if verify_cert else None)
    if verify_cert is False and (authority or verify_identity):
        raise _contradiction(
            wheres, "ssl_verify_cert", f"ssl_verify_cert=false and {verifies}",
            "leave ssl_verify_cert out, or accept any certificate with ssl_mode=REQUIRED alone",
        )  # fmt: skip
    if asked in (Mode.DISABLED, Mode.PREFERRED, Mode.REQUIRED):
        what = "ssl_disabled=true" if disabled else f"ssl_mode={asked.value}"
        if verifies:
            raise _contradiction(
                wheres, "ssl_disabled" if disabled else "ssl_mode", f"{what} and {verifies}",
                "keep one of them: ssl_mode=VERIFY_IDENTITY has the server verified",
            )  # fmt: skip
        certificate = next((name for name in ("ssl_cert", "ssl_key", "ssl_key_password") if name in options), None)
        if certificate and asked is not Mode.REQUIRED:
            raise _contradiction(
                wheres, "ssl_disabled" if disabled else "ssl_mode", f"{what} and {certificate}",
                "a certificate of the client's needs TLS: ssl_mode=REQUIRED, or ssl_ca=/path/ca.pem",
            )  # fmt: skip
        return asked
    if asked is Mode.VERIFY_CA and verify_identity:
        raise _contradiction(
            wheres, "ssl_mode", "ssl_mode=VERIFY_CA and ssl_verify_identity=true", "write ssl_mode=VERIFY_IDENTITY"
        )
    if asked is Mode.VERIFY_IDENTITY and verify_identity is False:
        raise _contradiction(
            wheres, "ssl_mode", "ssl_mode=VERIFY_IDENTITY and ssl_verify_identity=false", "write ssl_mode=VERIFY_CA"
        )
    if asked is not None:
        if verify_cert is False:
            raise _contradiction(wheres, "ssl_mode", f"ssl_mode={asked.value} and ssl_verify_cert=false", "keep one")
        return asked
    if verifies:
        return Mode.VERIFY_CA if verify_identity is False else Mode.VERIFY_IDENTITY
    return Mode.REQUIRED if "ssl_cert" in options else Mode.PREFERRED


def _contradiction(wheres: Mapping[str, str], name: str, what: str, remedy: str) -> ConfigError:
    return ConfigError(f"{wheres[name]}: {what} contradict each other; {remedy}")


# --- files -----------------------------------------------------------------------------------------------------------


def check_authorities(path: str, where: str) -> None:
    """Raise ConfigError, beginning with `where`, unless a file has certificates of authorities."""
    _check_pem(url_files.read(path, where), path, where, "CERTIFICATE", "certificate")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError):
        raise ConfigError(f"{where}: {shown(path)} has a certificate that is damaged, or not in PEM") from None
    if not context.cert_store_stats()["x509"]:
        raise ConfigError(f"{where}: {shown(path)} has no certificate in PEM")


def check_certificate(cert: str, key: str, password: str | None, where: str, names: tuple[str, str, str]) -> None:
    """Raise ConfigError unless the client's certificate and key can be used without a question on a terminal.

    `names` are the options for the certificate, the key and the key's password.
    """
    cert_name, key_name, password_name = names
    content = url_files.read(cert, f"{where}: {cert_name}")
    _check_pem(content, cert, f"{where}: {cert_name}", "CERTIFICATE", "certificate")
    if key != cert:
        content = url_files.read(key, f"{where}: {key_name}")
    elif not re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", content):
        raise ConfigError(
            f"{where}: {cert_name} without {key_name}, and {shown(cert)} has no private key of its own; "
            f"name the key: {key_name}=/path/key.pem"
        )
    _check_pem(content, key, f"{where}: {key_name}", "PRIVATE KEY", "private key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password if password else _refuse_to_ask)
    except _Encrypted:
        raise ConfigError(
            f"{where}: {key_name}: {shown(key)} is encrypted; give its password in {password_name}, or remove "
            "it with `openssl pkey`"
        ) from None
    except ValueError:
        raise ConfigError(f"{where}: {password_name} is too long: at most 1024 bytes") from None
    except OSError as error:  # ssl.SSLError among them
        raise ConfigError(_explain(error, cert, key, password, where, names)) from None


class _Encrypted(Exception):
    """A key is encrypted, and its password was not given."""


def _refuse_to_ask() -> str:
    raise _Encrypted


def _explain(error: OSError, cert: str, key: str, password: str | None, where: str, names: tuple[str, str, str]) -> str:
    cert_name, key_name, password_name = names
    reason = getattr(error, "reason", None) or ""
    if "MISMATCH" in reason:
        return f"{where}: {key_name}: {shown(key)} is not the key of {cert_name}, {shown(cert)}"
    if password:
        return f"{where}: {key_name}: {shown(key)} cannot be read with {password_name}; is that its password?"
    return (
        f"{where}: {cert_name}, {key_name}: {shown(cert)} and {shown(key)} cannot be used"
        f" ({reason or 'not PEM'}); is one of them damaged?"
    )


def _check_client_certificate(options: Mapping[str, Any], wheres: Mapping[str, str]) -> None:
    cert, key = options.get("ssl_cert"), options.get("ssl_key")
    if cert is not None:
        names = ("ssl_cert", "ssl_key", "ssl_key_password")
        check_certificate(cert, key or cert, options.get("ssl_key_password"), wheres["ssl_cert"], names)
        return
    for name in ("ssl_key", "ssl_key_password"):
        if name in options:
            raise ConfigError(f"{wheres[name]}: {name} without ssl_cert; name the certificate: ssl_cert=/path/cert.pem")


def _check_pem(content: bytes, path: str, where: str, label: str, what: str) -> None:
    if not re.search(rf"-----BEGIN [A-Z0-9 ]*{label}-----".encode(), content):
        raise ConfigError(f"{where}: {shown(path)} has no {what} in PEM (-----BEGIN {label}-----)")


def _check_folder(path: str, where: str) -> None:
    if not any(re.fullmatch(r"[0-9a-f]{8}\.\d+", name) for name in url_files.names_in(path, where)):
        raise ConfigError(
            f"{where}: {shown(path)} has no certificate named by its hash; run `openssl rehash` on the folder"
        )
