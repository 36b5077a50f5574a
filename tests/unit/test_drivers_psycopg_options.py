"""The meaning of a PostgreSQL URL: libpq's parameters, checked when the settings are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from unit.certificates import Authority, encrypted
from wsgipool import ConfigError, config
from wsgipool.drivers import DEFAULT_READ_TIMEOUT, for_database, psycopg_options, server_of
from wsgipool.drivers.psycopg import PsycopgDriver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates by name: ca, client and its key, a key that others may read, a key with a password."""
    folder = tmp_path_factory.mktemp("certificates")
    client = Authority(folder, "ca").issue("client", "DNS:client")
    encrypted(client.key, "geheim")
    (folder / "open.key").write_bytes(client.key.read_bytes())
    (folder / "open.key").chmod(0o644)
    (folder / "empty").touch()
    return folder


def settings_of(options: str, address: str = "shop@db") -> config.DatabaseSettings:
    url = f"postgresql://{address}/orders?{options}".rstrip("?")
    return config.load({"databases": {"shop": {"url": url}}}).databases["shop"]


def parameters_of(options: str, address: str = "shop@db") -> dict[str, object]:
    return psycopg_options.read(settings_of(options, address))


def refusal_of(options: str, address: str = "shop@db") -> str:
    with pytest.raises(ConfigError) as caught:
        for_database(settings_of(options, address))
    message = str(caught.value)
    assert message.startswith("the mapping given to configure(): databases.shop.url: ")
    assert message.isprintable()
    return message


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ("", None),
        ("sslmode=REQUIRE", "require"),
        ("sslrootcert={}/ca.pem", "verify-full"),
        ("sslrootcert={}/ca.pem&sslmode=verify-ca", "verify-ca"),
        ("sslrootcert={}/ca.pem&sslmode=require", "require"),  # libpq takes this for verify-ca
    ],
)
def test_an_authority_means_that_the_server_is_verified(options: str, mode: str | None, folder: Path) -> None:
    assert parameters_of(options.replace("{}", str(folder))).get("sslmode") == mode


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("sslrootcert={}/ca.pem&sslmode=disable", "sslmode=disable and sslrootcert contradict each other"),
        ("sslrootcert={}/ca.pem&sslmode=prefer", "sslmode=prefer and sslrootcert contradict each other"),
        ("sslcert={}/client.pem&sslkey={}/client.key&sslmode=disable", "sslmode=disable and sslcert contradict"),
        ("sslrootcert=/nowhere.pem", "sslrootcert: '/nowhere.pem' does not exist"),
        ("sslrootcert={}", "is a folder"),
        ("sslrootcert={}/empty", "is empty"),
        ("sslrootcert={}/client.key", "has no certificate in PEM"),
        ("sslrootcert=ca.pem", "is not an absolute path"),
        ("sslcert={}/client.pem", "sslcert without sslkey"),
        ("sslkey={}/client.key", "sslkey without sslcert"),
        ("sslpassword=geheim", "sslpassword without sslcert"),
        ("sslcert={}/client.pem&sslkey={}/ca.key", "is not the key of sslcert"),
        ("sslcert={}/client.pem&sslkey={}/client.encrypted", "is encrypted; give its password in sslpassword"),
        ("sslcert={}/client.pem&sslkey={}/client.encrypted&sslpassword=falsch", "cannot be read with sslpassword"),
        ("sslcert={}/client.pem&sslkey={}/open.key", "may be read by others, and libpq refuses it; chmod 600"),
        ("sslcrl={}/ca.pem", "has no list of revoked certificates"),
        ("sslcrldir=/nowhere", "sslcrldir: '/nowhere' does not exist"),
        ("passfile=/nowhere", "passfile: '/nowhere' does not exist"),
        ("passfile={}/open.key", "may be read by others, and libpq ignores it; chmod 600"),
        ("passfile={}", "is a folder"),
        ("ssl_min_protocol_version=TLSv9", 'invalid "ssl_min_protocol_version" value: "TLSv9"'),
    ],
)
def test_an_option_that_libpq_would_ignore_or_notice_too_late_is_refused(options: str, said: str, folder: Path) -> None:
    message = refusal_of(options.replace("{}", str(folder)))

    assert said in message
    assert not [secret for secret in ("geheim", "falsch") if secret in message]


def test_a_clients_certificate_and_the_keys_password_are_used(folder: Path) -> None:
    parameters = parameters_of(
        f"sslcert={folder}/client.pem&sslkey={folder}/client.encrypted&sslpassword=geheim&sslrootcert={folder}/ca.pem"
    )

    assert (parameters["sslpassword"], parameters["sslmode"]) == ("geheim", "verify-full")


def test_a_verifying_mode_without_an_authority_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert "sslmode=verify-full without sslrootcert; name the authority's" in refusal_of("sslmode=verify-full")


def test_a_socket_has_no_tls_that_could_be_required() -> None:
    assert "is a Unix socket, where PostgreSQL has no TLS" in refusal_of("host=/run/none&sslmode=require", "shop@")
    assert "sslmode" not in parameters_of("host=/run/none", "shop@")


# --- a service, and the environment ----------------------------------------------------------------------------------


def test_a_service_names_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    services = tmp_path / "services"
    os.mkfifo(tmp_path / "fifo")
    services.write_text(
        f"[shop]\nhost=db.example\nport=5433\nsslrootcert={folder}/ca.pem\n[bad]\nsslrootcert=/nowhere\n"
        f"[fifo]\nhost=db.example\npassfile={tmp_path}/fifo\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))

    assert parameters_of("service=shop", "")["sslmode"] == "verify-full"
    assert server_of(settings_of("service=shop", "").url) == "postgresql://db.example:5433"
    assert 'definition of service "other" not found' in refusal_of("service=other", "")
    assert "sslrootcert: '/nowhere' does not exist" in refusal_of("service=bad", "db")
    assert "is a FIFO; name a regular file" in refusal_of("service=fifo", "")


def test_the_place_does_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "5499")
    monkeypatch.setenv("PGHOSTADDR", "203.0.113.9")

    driver = for_database(settings_of(""))

    assert isinstance(driver, PsycopgDriver)
    asked = conninfo_to_dict(driver._conninfo)
    assert (asked["host"], asked["port"], asked["hostaddr"]) == ("db", "5432", "")


def test_the_verification_of_a_server_does_not_depend_on_the_environment(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")

    assert parameters_of(f"sslrootcert={folder}/ca.pem")["sslmode"] == "verify-full"


# --- the rest --------------------------------------------------------------------------------------------------------


def test_nothing_is_connected_when_the_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("a name was looked up"))

    driver = for_database(settings_of("target_session_attrs=read-write&load_balance_hosts=random", "shop@203.0.113.1"))

    assert isinstance(driver, PsycopgDriver)
    asked = conninfo_to_dict(driver._conninfo)
    assert (asked["target_session_attrs"], asked["load_balance_hosts"]) == ("read-write", "random")


def test_a_silent_server_is_not_waited_for_forever() -> None:
    assert parameters_of("")["read_timeout"] == DEFAULT_READ_TIMEOUT
    assert parameters_of("read_timeout=5")["read_timeout"] == 5.0


@pytest.mark.parametrize(
    ("address", "server"),
    [
        ("shop@%2Frun%2Fpostgresql", "postgresql:///run/postgresql:5432"),
        ("shop@db,other", "postgresql://db,other:5432"),
        ("shop@[::1]:5433", "postgresql://::1:5433"),
    ],
)
def test_a_socket_and_several_hosts_stand_before_the_options(address: str, server: str) -> None:
    assert server_of(settings_of("", address).url) == server
    assert for_database(settings_of("", address))


def test_a_name_that_the_server_would_change_is_refused_or_cut() -> None:
    settings = config.load({"databases": {"ä" * 60: {"url": "postgresql://db/x"}}}).databases["ä" * 60]

    assert len(str(psycopg_options.read(settings)["application_name"]).encode()) <= 63
    assert "1 to 63 printable characters of ASCII" in refusal_of("application_name=" + "x" * 64)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files may be read by a group")
def test_a_key_of_roots_may_be_read_by_a_group(folder: Path) -> None:
    key = folder / "group.key"
    key.write_bytes((folder / "client.key").read_bytes())
    key.chmod(0o640)

    assert parameters_of(f"sslcert={folder}/client.pem&sslkey={key}&sslmode=require")
