"""`wsgipool apache`, which installs the drop-in into Apache's configuration."""

from __future__ import annotations

import difflib
import importlib
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import wsgipool
from wsgipool import config
from wsgipool.cli import main
from wsgipool.cli.apache import _defines_of, _drop_in
from wsgipool.httpd.express import apache_user

PACKAGE = Path(wsgipool.__file__).parent


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["apache", *map(str, arguments)])


def install(folder: Path, *options: str | Path) -> Result:
    return run("install", "--directory", folder, "--config", folder / "wsgipool.toml", *options)


def one_line_error(result: Result) -> str:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1
    return result.stderr


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_prints_what_install_would_write(tmp_path: Path) -> None:
    install(tmp_path)
    installed = (tmp_path / "wsgipool.conf").read_text()

    define = f'Define WSGIPOOL_CONFIG "{tmp_path}/wsgipool.toml"'
    shown = installed.replace(define, "#Define WSGIPOOL_CONFIG /etc/wsgipool.toml")
    assert run("show").stdout == shown.replace(f"{tmp_path}/wsgipool.conf", "/etc/apache2/conf-available/wsgipool.conf")
    assert run("show", "wsgipool.conf").stdout == run("show").stdout


@pytest.mark.parametrize("name", sorted({path.name for path in (PACKAGE / "apache").iterdir()} - {"wsgipool.conf"}))
def test_show_prints_a_companion_as_it_is(name: str) -> None:
    assert run("show", name).stdout == (PACKAGE / "apache" / name).read_text()


def test_show_of_an_unknown_file_lists_the_known_ones() -> None:
    result = run("show", "nothing.conf")

    assert result.exit_code == 2
    assert "'wsgipool.toml'" in result.stderr


# --- install ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_on_path")
def test_install_writes_the_drop_in_and_sample_settings(tmp_path: Path) -> None:
    result = install(tmp_path)

    assert result.exit_code == 0
    assert result.stdout.startswith(f"wrote {tmp_path}/wsgipool.conf\nwrote {tmp_path}/wsgipool.toml\n")
    assert result.stdout.endswith(f"now edit {tmp_path}/wsgipool.toml, then `wsgipool apache reload`\n")


def test_the_drop_in_names_the_folder_of_the_package(tmp_path: Path) -> None:
    install(tmp_path)

    defines = re.findall(r"^ *Define WSGIPOOL_HOME (.*)$", (tmp_path / "wsgipool.conf").read_text(), re.MULTILINE)
    assert defines == [f'"{PACKAGE}"']


def test_the_drop_in_is_otherwise_unchanged(tmp_path: Path) -> None:
    install(tmp_path)

    original = (PACKAGE / "apache" / "wsgipool.conf").read_text().splitlines()
    installed = (tmp_path / "wsgipool.conf").read_text().splitlines()
    changed = [line[2:] for line in difflib.ndiff(original, installed) if line.startswith("+ ")]
    assert changed == [
        f'    Define WSGIPOOL_HOME "{PACKAGE}"',
        f'Define WSGIPOOL_DROP_IN "{tmp_path}/wsgipool.conf"',
        f'Define WSGIPOOL_CONFIG "{tmp_path}/wsgipool.toml"',
    ]


def test_the_drop_in_alone_has_no_effect_on_a_server() -> None:
    shown = run("show").stdout.splitlines()

    active = "\n".join(line.strip() for line in shown if not line.lstrip().startswith("#"))
    outside = re.sub(r"(?s)<IfDefine .*?</IfDefine>", "", active).split("\n")
    assert [line for line in outside if line and not line.startswith("Define ")] == []


def test_the_sample_settings_are_valid(tmp_path: Path) -> None:
    install(tmp_path)

    assert list(config.load(tmp_path / "wsgipool.toml").databases) == ["orders"]


def test_other_users_cannot_read_the_sample_settings(tmp_path: Path) -> None:
    install(tmp_path)

    assert (tmp_path / "wsgipool.toml").stat().st_mode & 0o007 == 0


def test_existing_settings_are_kept(tmp_path: Path) -> None:
    (tmp_path / "wsgipool.toml").write_text("# mine\n")

    result = install(tmp_path)

    assert f"kept {tmp_path}/wsgipool.toml\n" in result.stdout
    assert (tmp_path / "wsgipool.toml").read_text() == "# mine\n"


def test_installing_twice_changes_nothing(tmp_path: Path) -> None:
    install(tmp_path)
    before = (tmp_path / "wsgipool.conf").read_text()

    result = install(tmp_path)

    assert result.exit_code == 0
    assert (tmp_path / "wsgipool.conf").read_text() == before


def test_installing_again_keeps_the_defines_and_a_backup(tmp_path: Path) -> None:
    install(tmp_path)
    drop_in = tmp_path / "wsgipool.conf"
    edited = drop_in.read_text().replace("#Define WSGIPOOL_SIZING", "Define WSGIPOOL_SIZING")
    edited = edited.replace("#Define WSGIPOOL_THREADS 16", "Define WSGIPOOL_THREADS 7") + "# mine\n"
    drop_in.write_text(edited)

    result = install(tmp_path)

    assert result.exit_code == 0
    assert "with your WSGIPOOL_CONFIG, WSGIPOOL_SIZING, WSGIPOOL_THREADS (backup: wsgipool.conf.bak)" in result.stdout
    assert "\nDefine WSGIPOOL_SIZING\n" in drop_in.read_text()
    assert "\nDefine WSGIPOOL_THREADS 7\n" in drop_in.read_text()
    assert (tmp_path / "wsgipool.conf.bak").read_text() == edited


def test_a_define_that_is_no_longer_known_is_refused_before_writing(tmp_path: Path) -> None:
    drop_in = tmp_path / "wsgipool.conf"
    drop_in.write_text("Define WSGIPOOL_DAEMON\n")

    error = one_line_error(install(tmp_path))

    assert "WSGIPOOL_DAEMON is not known to this version; see docs/how-to/upgrade.md" in error
    assert drop_in.read_text() == "Define WSGIPOOL_DAEMON\n"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ('    Define WSGIPOOL_PYTHON_HOME "/opt/shop"\n', 'Define WSGIPOOL_PYTHON_HOME "/opt/shop"\n'),
        ('    Define WSGIPOOL_CONFIG "/srv/my shop.toml"\n', 'Define WSGIPOOL_CONFIG "/srv/my shop.toml"\n'),
        ('    Define WSGIPOOL_CONFIG "/etc/wsgipool.toml"\n', "#Define WSGIPOOL_CONFIG /etc/wsgipool.toml\n"),
    ],
)
def test_an_older_drop_in_keeps_its_paths(line: str, kept: str) -> None:
    assert f"\n{kept}" in _drop_in(Path("wsgipool.conf"), _defines_of(line))


def test_an_older_drop_in_that_nobody_changed_is_replaced(tmp_path: Path) -> None:
    older = "<IfDefine !WSGIPOOL_PROCESS_GROUP>\n    Define WSGIPOOL_PROCESS_GROUP %{GLOBAL}\n</IfDefine>\n"
    (tmp_path / "wsgipool.conf").write_text(older)

    result = install(tmp_path)

    assert result.exit_code == 0, result.stderr
    assert "WSGIPOOL_PROCESS_GROUP" not in (tmp_path / "wsgipool.conf").read_text()


@pytest.mark.usefixtures("_on_path")
def test_on_debian_the_next_step_is_a2enconf(tmp_path: Path) -> None:
    folder = tmp_path / "conf-available"
    folder.mkdir()

    assert install(folder).stdout.endswith(", then `a2enconf wsgipool`, then `wsgipool apache reload`\n")


def test_without_a_folder_the_first_that_exists_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second, third = tmp_path / "second", tmp_path / "third"
    second.mkdir()
    third.mkdir()
    places = tuple(map(str, (tmp_path / "first", second, third)))
    monkeypatch.setattr(importlib.import_module("wsgipool.cli.apache"), "DROP_IN_FOLDERS", places)

    run("install", "--config", tmp_path / "wsgipool.toml")

    assert [path.name for path in tmp_path.glob("*/wsgipool.conf")] == ["wsgipool.conf"]
    assert (second / "wsgipool.conf").exists()


def test_where_apache_has_no_folder_the_error_says_how_to_name_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = (str(tmp_path / "first"), str(tmp_path / "second"))
    monkeypatch.setattr(importlib.import_module("wsgipool.cli.apache"), "DROP_IN_FOLDERS", places)

    error = one_line_error(run("install", "--config", tmp_path / "wsgipool.toml"))

    assert error == (f"wsgipool: none of {places[0]}, {places[1]} exists; name Apache's folder with --directory\n")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    result = install(tmp_path / "nowhere")

    assert result.exit_code == 2
    assert f"'{tmp_path}/nowhere' does not exist" in result.stderr


@pytest.mark.parametrize("name", ["a\nb", 'a"b', "a\\b", "${HOME}", "\udcff", "\x1b[31m"])
def test_a_path_that_httpd_cannot_quote_is_refused_before_writing(name: str, tmp_path: Path) -> None:
    error = one_line_error(run("install", "--directory", tmp_path, "--config", tmp_path / f"{name}.toml"))

    assert "has characters that httpd's configuration cannot contain" in error
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_have_a_blank(tmp_path: Path) -> None:
    run("install", "--directory", tmp_path, "--config", tmp_path / "my shop.toml")

    assert f'Define WSGIPOOL_CONFIG "{tmp_path}/my shop.toml"\n' in (tmp_path / "wsgipool.conf").read_text()


def test_settings_that_cannot_be_written_are_a_one_line_error(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "wsgipool.toml"

    error = one_line_error(run("install", "--directory", tmp_path, "--config", path))

    assert error == f"wsgipool: {path.parent} is not a folder; name another path with --config\n"
    assert list(tmp_path.iterdir()) == [], "half of the installation was written"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_the_sample_settings_can_be_read_by_the_apache_user(tmp_path: Path) -> None:
    install(tmp_path)

    assert (tmp_path / "wsgipool.toml").stat().st_gid == apache_user().pw_gid
