"""Certificates that live for a test, made by the program openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key."""

    cert: Path
    key: Path


class Authority(Certificate):
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder / f"{name}.pem", folder / f"{name}.key")
        _openssl("req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.cert)

    def issue(self, name: str, alternatives: str) -> Certificate:
        """Return a certificate for `alternatives`, such as `DNS:localhost`."""
        issued = Certificate(self.cert.with_name(f"{name}.pem"), self.cert.with_name(f"{name}.key"))
        request, extensions = issued.cert.with_suffix(".csr"), issued.cert.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={alternatives}\n")
        _openssl("req", "-new", *_KEY, "-subj", f"/CN={name}", "-keyout", issued.key, "-out", request)
        _openssl(
            *("x509", "-req", "-days", "2", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial"),
            *("-extfile", extensions, "-out", issued.cert),
        )
        return issued


def encrypted(key: Path, password: str) -> Path:
    """Return a copy of a key that has a password."""
    copy = key.with_suffix(".encrypted")
    _openssl("pkey", "-in", key, "-aes256", "-passout", f"pass:{password}", "-out", copy)
    return copy


def rehash(folder: Path) -> None:
    """Create the hash links by which OpenSSL finds the certificates of a folder."""
    _openssl("rehash", folder)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
