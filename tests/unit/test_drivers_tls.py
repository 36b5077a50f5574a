"""The meaning of the TLS options, the same for both drivers of MySQL; contradictions are refused."""

from __future__ import annotations

import os
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from unit.certificates import Authority, encrypted, rehash
from wsgipool import ConfigError, config
from wsgipool.drivers import for_database, mysql_options
from wsgipool.drivers.pymysql.connection import PooledConnection
from wsgipool.drivers.tls import Mode

SCHEMES = ["mysql", "mysql+mysqlclient"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates by name: ca, client and its key, a key with a password, and unusable files."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder, "ca")
    client = authority.issue("client", "DNS:client")
    encrypted(client.key, "geheim")
    (folder / "both.pem").write_text(client.cert.read_text() + client.key.read_text())
    (folder / "damaged.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (folder / "empty.pem").touch()
    (folder / "der.pem").write_bytes(ssl.PEM_cert_to_DER_cert(client.cert.read_text()))
    os.mkfifo(folder / "fifo.pem")
    (folder / "hashed").mkdir()
    shutil.copy(authority.cert, folder / "hashed")
    rehash(folder / "hashed")
    return folder


def settings_of(url: str) -> config.DatabaseSettings:
    return config.load({"databases": {"shop": {"url": url.rstrip("?")}}}).databases["shop"]


def mode_of(options: str) -> Mode:
    return mysql_options.read(settings_of(f"mysql://shop@db/orders?{options}")).tls.mode


def refusal_of(scheme: str, options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        for_database(settings_of(f"{scheme}://shop@db/orders?{options}"))
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- the meaning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ("", Mode.PREFERRED),
        ("ssl_disabled=false", Mode.PREFERRED),
        ("ssl_verify_cert=false", Mode.PREFERRED),
        ("ssl_verify_identity=false", Mode.PREFERRED),
        ("ssl_disabled=true", Mode.DISABLED),
        ("ssl_disabled=true&ssl_verify_cert=false", Mode.DISABLED),
        ("ssl_mode=DISABLED", Mode.DISABLED),
        ("ssl_mode=preferred", Mode.PREFERRED),
        ("ssl-mode=required", Mode.REQUIRED),
        ("sslmode=require", Mode.REQUIRED),
        ("ssl_cert={}/client.pem&ssl_key={}/client.key", Mode.REQUIRED),
        ("ssl_cert={}/both.pem", Mode.REQUIRED),
        ("ssl_cert={}/both.pem&ssl_verify_cert=false", Mode.REQUIRED),
        ("ssl_ca={}/ca.pem", Mode.VERIFY_IDENTITY),
        ("ssl_capath={}/hashed", Mode.VERIFY_IDENTITY),
        ("ssl_ca={}/ca.pem&ssl_verify_cert=true", Mode.VERIFY_IDENTITY),
        ("ssl_ca={}/ca.pem&ssl_cert={}/both.pem", Mode.VERIFY_IDENTITY),
        ("ssl_ca={}/ca.pem&ssl_verify_identity=false", Mode.VERIFY_CA),
        ("ssl_ca={}/ca.pem&ssl_mode=VERIFY_CA", Mode.VERIFY_CA),
        ("ssl_mode=verify-ca", Mode.VERIFY_CA),
        ("ssl_verify_identity=true", Mode.VERIFY_IDENTITY),
        ("ssl_verify_cert=true", Mode.VERIFY_IDENTITY),
        ("ssl_verify_cert=true&ssl_verify_identity=false", Mode.VERIFY_CA),
        ("ssl_mode=VERIFY_IDENTITY", Mode.VERIFY_IDENTITY),
        ("sslmode=verify-full", Mode.VERIFY_IDENTITY),
    ],
)
def test_each_combination_of_options_has_one_mode(options: str, mode: Mode, folder: Path) -> None:
    assert mode_of(options.replace("{}", str(folder))) is mode


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("ssl_disabled=true&ssl_ca={}/ca.pem", ("ssl_disabled", "ssl_ca")),
        ("ssl_disabled=true&ssl_capath={}/hashed", ("ssl_disabled", "ssl_capath")),
        ("ssl_disabled=true&ssl_cert={}/both.pem", ("ssl_disabled", "ssl_cert")),
        ("ssl_disabled=true&ssl_verify_cert=true", ("ssl_disabled", "ssl_verify_cert")),
        ("ssl_disabled=true&ssl_mode=REQUIRED", ("ssl_disabled", "ssl_mode")),
        ("ssl_disabled=false&ssl_mode=DISABLED", ("ssl_disabled", "ssl_mode")),
        ("ssl_mode=DISABLED&ssl_ca={}/ca.pem", ("ssl_mode", "ssl_ca")),
        ("ssl_mode=PREFERRED&ssl_ca={}/ca.pem", ("ssl_mode", "ssl_ca")),
        ("ssl_mode=PREFERRED&ssl_cert={}/both.pem", ("ssl_mode", "ssl_cert")),
        ("ssl_mode=REQUIRED&ssl_ca={}/ca.pem", ("ssl_mode", "ssl_ca")),
        ("ssl_mode=REQUIRED&ssl_verify_identity=true", ("ssl_mode", "ssl_verify_identity")),
        ("ssl_mode=REQUIRED&ssl_verify_cert=true", ("ssl_mode", "ssl_verify_cert")),
        ("ssl_mode=VERIFY_CA&ssl_verify_identity=true", ("ssl_mode", "ssl_verify_identity")),
        ("ssl_mode=VERIFY_CA&ssl_verify_cert=false", ("ssl_mode", "ssl_verify_cert")),
        ("ssl_mode=VERIFY_IDENTITY&ssl_verify_identity=false", ("ssl_mode", "ssl_verify_identity")),
        ("ssl_ca={}/ca.pem&ssl_verify_cert=false", ("ssl_ca", "ssl_verify_cert")),
        ("ssl_verify_identity=true&ssl_verify_cert=false", ("ssl_verify_identity", "ssl_verify_cert")),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: str, named: tuple[str, str], scheme: str, folder: Path
) -> None:
    message = refusal_of(scheme, options.replace("{}", str(folder)))

    assert message.startswith("the mapping given to configure(): databases.shop.url: ")
    assert "contradict each other; " in message
    assert all(name in message for name in named)


# --- the drivers' arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "verify_mode", "check_hostname", "required"),
    [
        ("", ssl.CERT_NONE, False, False),
        ("ssl_mode=REQUIRED", ssl.CERT_NONE, False, True),
        ("ssl_cert={}/both.pem", ssl.CERT_NONE, False, True),
        ("ssl_ca={}/ca.pem", ssl.CERT_REQUIRED, True, True),
        ("ssl_verify_identity=true", ssl.CERT_REQUIRED, True, True),
        ("ssl_ca={}/ca.pem&ssl_mode=VERIFY_CA", ssl.CERT_REQUIRED, False, True),
    ],
)
def test_pymysqls_context_verifies_as_the_url_demands(
    options: str, verify_mode: ssl.VerifyMode, check_hostname: bool, required: bool, folder: Path
) -> None:
    driver: Any = for_database(settings_of(f"mysql://shop@db/orders?{options.replace('{}', str(folder))}"))

    connection = PooledConnection(**driver._arguments, defer_connect=True)

    assert (connection.ctx.verify_mode, connection.ctx.check_hostname) == (verify_mode, check_hostname)
    assert connection._ssl_required is required


def test_no_tls_means_none_with_pymysql() -> None:
    driver: Any = for_database(settings_of("mysql://shop@db/orders?ssl_mode=DISABLED"))

    assert PooledConnection(**driver._arguments, defer_connect=True).ssl is False


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ssl_ca=/nowhere/ca.pem", "ssl_ca: '/nowhere/ca.pem' does not exist"),
        ("ssl_ca=ca.pem", "ssl_ca: 'ca.pem' is not an absolute path"),
        ("ssl_ca=~/ca.pem", "ssl_ca: '~/ca.pem' is not an absolute path"),
        ("ssl_ca={}", "is a folder"),
        ("ssl_ca={}/empty.pem", "is empty"),
        ("ssl_ca={}/fifo.pem", "name a regular file"),
        ("ssl_ca=/dev/zero", "name a regular file"),
        ("ssl_ca={}/client.key", "has no certificate in PEM"),
        ("ssl_ca={}/der.pem", "has no certificate in PEM"),
        ("ssl_ca={}/damaged.pem", "damaged"),
        ("ssl_ca=/" + "x" * 5000, "cannot be read by user id"),
        ("ssl_capath=/nowhere", "ssl_capath: '/nowhere' does not exist"),
        ("ssl_capath={}/ca.pem", "is not a folder"),
        ("ssl_capath={}", "run `openssl rehash` on the folder"),
        ("ssl_key={}/client.key", "ssl_key without ssl_cert"),
        ("ssl_cert={}/client.pem", "ssl_cert without ssl_key"),
        ("ssl_cert={}/client.pem&ssl_key=/nowhere/key", "ssl_key: '/nowhere/key' does not exist"),
        ("ssl_cert={}/client.pem&ssl_key={}/fifo.pem", "name a regular file"),
        ("ssl_cert={}/client.pem&ssl_key={}/ca.key", "is not the key of ssl_cert"),
        ("ssl_cert={}/client.pem&ssl_key={}/client.pem", "ssl_cert without ssl_key"),
        ("ssl_cert={}/client.key&ssl_key={}/client.pem", "has no certificate in PEM"),
        ("ssl_cert={}/damaged.pem&ssl_key={}/client.key", "is one of them damaged?"),
        ("ssl_cert={}/client.pem&ssl_key={}/client.encrypted", "is encrypted; give its password in ssl_key_password"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(options: str, said: str, scheme: str, folder: Path) -> None:
    message = refusal_of(scheme, options.replace("{}", str(folder)))

    assert message.startswith("the mapping given to configure(): databases.shop.url: ssl_")
    assert said in message
    assert len(message) < 500


def test_the_error_for_an_unreadable_file_names_the_user(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch(mode=0o000)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)  # root reads everything
    try:
        message = refusal_of("mysql", f"ssl_ca={file}")
        assert f"cannot be read by user id {os.geteuid()}: Permission denied; give that user's group" in message
    finally:
        os.seteuid(before)


def test_a_keys_password_is_used_and_a_wrong_one_not_shown(folder: Path) -> None:
    files = f"ssl_cert={folder}/client.pem&ssl_key={folder}/client.encrypted"

    assert mode_of(f"{files}&ssl_key_password=geheim") is Mode.REQUIRED
    message = refusal_of("mysql", f"{files}&ssl_key_password=falsch")

    assert "cannot be read with ssl_key_password" in message
    assert "falsch" not in message


def test_a_socket_has_no_name_to_verify(folder: Path) -> None:
    for scheme in SCHEMES:
        with pytest.raises(ConfigError, match=r"has no name that a certificate could prove; leave ssl_ca out"):
            for_database(settings_of(f"{scheme}://shop@/orders?unix_socket=/run/none.sock&ssl_ca={folder}/ca.pem"))
