"""Passwords against stored hashes: those of the real htpasswd and of the real Django, and damaged ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wsgipool.auth import passwords
from wsgipool.auth.passwords import MAX_PASSWORD, Passwords, UnknownFormat

PASSWORD = "öpen: sesame"
HTPASSWD = {"apr1": "-m", "bcrypt": "-B", "SHA-1": "-s", "SHA-256 crypt": "-2", "SHA-512 crypt": "-5"}
DJANGO = ("pbkdf2_sha256", "pbkdf2_sha1", "bcrypt_sha256", "bcrypt")


def of_htpasswd(option: str, password: str = PASSWORD) -> str:
    printed = subprocess.run(
        ["htpasswd", "-n", "-i", option, "ann"], input=password, capture_output=True, text=True, check=True
    ).stdout
    return printed.strip().removeprefix("ann:")


def of_django(algorithm: str) -> str:
    # In a process of its own, since Django can be configured only once.
    code = (
        "from django.conf import global_settings, settings\n"
        "bcrypt = 'django.contrib.auth.hashers.BCryptPasswordHasher'\n"
        "settings.configure(PASSWORD_HASHERS=[*global_settings.PASSWORD_HASHERS, bcrypt])\n"
        "from django.contrib.auth import hashers\n"
        f"print(hashers.make_password({PASSWORD!r}, hasher={algorithm!r}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("option", HTPASSWD.values(), ids=HTPASSWD)
def test_what_htpasswd_writes_accepts_its_password_alone(option: str) -> None:
    stored = of_htpasswd(option)

    assert Passwords().is_right(PASSWORD.encode(), stored)
    assert not Passwords().is_right(PASSWORD.encode() + b"x", stored)


def test_the_traditional_crypt_knows_eight_characters() -> None:
    stored = of_htpasswd("-d", "12345678")

    assert Passwords().is_right(b"12345678 and more", stored)
    assert not Passwords().is_right(b"1234567", stored)


@pytest.mark.parametrize("algorithm", DJANGO)
def test_what_django_writes_accepts_its_password_alone(algorithm: str) -> None:
    stored = of_django(algorithm)

    assert Passwords().is_right(PASSWORD.encode(), stored)
    assert not Passwords().is_right(PASSWORD.encode() + b"x", stored)


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_each_name_of_bcrypt_is_known(prefix: str) -> None:
    stored = of_htpasswd("-B")

    assert Passwords().is_right(PASSWORD.encode(), prefix + stored[4:])


@pytest.mark.parametrize(
    "stored",
    [
        "open sesame",
        "plain",
        "md5$salt$0123456789abcdef0123456789abcdef",
        "argon2$argon2id$v=19$m=102400,t=2,p=8$c2FsdA$aGFzaA",
        "scrypt$16384$salt$8$1$aGFzaA==",
        "{SSHA}MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=",
        "$9$salt$hash",
        "$2y$05$too-short",
        "bcrypt$plain",
        "bcrypt_sha256$$1$salt$hash",
        "pbkdf2_sha256$many$salt$aGFzaA==",
        "pbkdf2_sha256$0$salt$aGFzaA==",
        "pbkdf2_sha256$99999999999$salt$aGFzaA==",
        "pbkdf2_sha512$1000$salt$aGFzaA==",
    ],
)
def test_another_format_is_refused_even_if_the_password_is_the_same_text(stored: str) -> None:
    with pytest.raises(UnknownFormat):
        Passwords().is_right(stored.encode(), stored)


@pytest.mark.parametrize("stored", ["", "!", "*", "!Q8Zn1ZQpVq", "*0", "{SHA}", "{SHA}ü"])
@pytest.mark.parametrize("password", ["", "!", "*0", "Q8Zn1ZQpVq", "{SHA}"])
def test_a_locked_or_empty_entry_accepts_no_password(stored: str, password: str) -> None:
    assert not Passwords().is_right(password.encode(), stored)


def test_an_empty_password_is_right_only_for_its_own_hash() -> None:
    assert Passwords().is_right(b"", of_htpasswd("-s", ""))
    assert not Passwords().is_right(b"", of_htpasswd("-s", "x"))


@pytest.mark.parametrize("password", [PASSWORD.encode() + b"\0", b"x" * (MAX_PASSWORD + 1), b"\0" * 10_000])
def test_a_password_with_nul_or_without_end_is_wrong(password: bytes) -> None:
    assert not Passwords().is_right(password, of_htpasswd("-m"))


def test_the_check_of_an_unknown_user_calculates_with_the_usual_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    calculated: list[str] = []
    original = passwords.matches

    def counting(password: bytes, stored: str) -> bool:
        calculated.append(stored)
        return original(password, stored)

    monkeypatch.setattr(passwords, "matches", counting)
    checks = Passwords()
    stored = of_htpasswd("-m")

    assert not checks.is_right(b"first", None)
    assert checks.is_right(PASSWORD.encode(), stored)
    assert not checks.is_right(PASSWORD.encode(), None), "the decoy's own password lets nobody in"
    assert not checks.is_right(b"third", "!")
    assert calculated[0].startswith("$2y$05$")
    assert calculated[1:] == [stored] * 3
