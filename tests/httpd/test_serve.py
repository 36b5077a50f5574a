"""`wsgipool serve`: any application on a real httpd."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from httpd.harness import APP, LONG, add_budget, eventually, made_runtime_dir, write_config
from httpd.test_demo import WSGIPOOL, Command, command
from wsgipool.demo.mariadb import MariaDB
from wsgipool.httpd.express import free_port, refuse_taken_port


@pytest.fixture
def script(folder: Path) -> Path:
    return Path(shutil.copytree(APP, folder / "app")) / "app.wsgi"


def test_serve_uses_the_database_of_the_command_line(script: Path, shop: str, folder: Path) -> None:
    with command(
        folder, "serve", str(script), "--mpm", "event", "--threads", "3", "--database", f"shop={shop}"
    ) as site:
        site.wait_until_open()
        answer = requests.get(f"{site.url}/hold", timeout=LONG).json()
        assert site.stop() == 0

    assert answer["max_size"] == 3
    assert shop.split("@")[1] in site.output
    assert shop.split("@")[0] not in site.output, "the password is printed"


def test_the_folder_of_the_script_may_have_a_blank_and_signs(script: Path, shop: str, folder: Path) -> None:
    place = script.parent.rename(folder / "my 100% $hop")
    (place / "wsgipool.toml").write_text(f'[databases.shop]\nurl = "{shop}"\n')
    with command(folder, "serve", str(place / "app.wsgi")) as site:
        site.wait_until_open()
        assert requests.get(f"{site.url}/hold", timeout=LONG).status_code == 200


@pytest.mark.parametrize("name", ["it's", 'a"b', "a`b`", "a$(b)", "a${b}", "a\\b", "a\nb"])
def test_a_path_that_cannot_be_quoted_is_a_one_line_error(name: str, script: Path, folder: Path) -> None:
    place = script.parent.rename(folder / name)
    command = [*WSGIPOOL, "serve", str(place / "app.wsgi"), "--database", "sqlite:////tmp/shop.db"]

    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG)

    assert outcome.returncode == 1
    assert outcome.stderr == (
        f"wsgipool: {str(place / 'app.wsgi')!r} has a quote or another character that mod_wsgi-express cannot write "
        "into httpd's configuration; rename the file or its folder\n"
    )


def test_serve_uses_the_settings_beside_the_script(script: Path, shop: str, folder: Path) -> None:
    (script.parent / "wsgipool.toml").write_text(f'[databases.shop]\nurl = "{shop}"\nmax_size = 2\n')
    with command(folder, "serve", str(script)) as site:
        site.wait_until_open()
        answer = requests.get(f"{site.url}/hold", timeout=LONG).json()

    assert answer["max_size"] == 2


def test_options_after_two_dashes_go_to_mod_wsgi_express(script: Path, shop: str, folder: Path) -> None:
    with command(
        folder, "serve", str(script), "--database", f"shop={shop}", "--", "--setenv", "GREETING", "hello"
    ) as site:
        site.wait_until_open()
        assert requests.get(f"{site.url}/hold", timeout=LONG).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--database", "mysqll://u:s3cret@h/shop"], "no driver for mysqll://; did you mean mysql?"),
        (["--database", "mysql://u:s3cret@h/shop?chraset=utf8"], "did you mean charset?"),
        (["--database", "mysql://u:s3cret@h/"], "--database: the URL names no database"),
        (["--config", "/nonexistent/wsgipool.toml"], "/nonexistent/wsgipool.toml does not exist"),
        ([], "no databases: give --database URL or --config FILE"),
    ],
)
def test_a_wrong_setting_is_a_one_line_error_before_the_start(arguments: list[str], message: str, script: Path) -> None:
    environment = {**os.environ, "WSGIPOOL_CONFIG": str(script.parent / "absent.toml")}  # and not /etc/wsgipool.toml
    command = [*WSGIPOOL, "serve", str(script), "--port", str(free_port()), *arguments]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG, env=environment)

    assert outcome.returncode == 1
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert "s3cret" not in outcome.stderr


def test_an_unusable_budget_is_a_one_line_error_before_the_start(script: Path, folder: Path) -> None:
    settings = folder / "wsgipool.toml"
    write_config(settings, {"shop": "mysql://shop@127.0.0.1/shop"}, {})
    add_budget(settings, made_runtime_dir(folder), {"connections": 6})
    (folder / "run").chmod(0o755)
    command = [*WSGIPOOL, "serve", str(script), "--port", str(free_port()), "--config", str(settings)]

    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG)

    # Examined as the Apache user, since the folder does not belong to root.
    place = f"{settings}: runtime_dir = {folder}/run"
    assert outcome.stderr == f"wsgipool: {place} is open to others, drwxr-xr-x; chmod go= {folder}/run\n"
    assert outcome.returncode == 1


def test_a_site_with_a_budget_is_served(script: Path, shop: str, folder: Path) -> None:
    settings = folder / "wsgipool.toml"
    write_config(settings, {"shop": shop}, {})
    add_budget(settings, made_runtime_dir(folder), {"connections": 6})
    with command(folder, "serve", str(script), "--config", str(settings)) as site:
        site.wait_until_open()
        assert requests.get(f"{site.url}/hold", timeout=LONG).status_code == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts httpd's children as another user")
def test_a_script_that_the_apache_user_cannot_read_is_a_one_line_error(script: Path, shop: str, folder: Path) -> None:
    script.parent.chmod(0o700)
    with command(folder, "serve", str(script), "--database", f"shop={shop}") as site:
        site.process.wait(LONG)

    assert site.stop() == 1
    assert f"cannot read {script}; chgrp www-data" in site.output
    assert "Traceback" not in site.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts httpd's children as another user")
def test_a_python_that_the_apache_user_cannot_read_is_a_one_line_error(script: Path, shop: str, folder: Path) -> None:
    library = Path(os.__file__).parent
    home = folder / "closed"
    (home / "lib").mkdir(parents=True)
    (home / "lib" / library.name).symlink_to(library)
    home.chmod(0o700)
    command = [*WSGIPOOL, "serve", str(script), "--port", str(free_port()), "--database", f"shop={shop}"]

    outcome = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=LONG, env={**os.environ, "PYTHONHOME": str(home)}
    )

    assert f"cannot read {home}/lib/{library.name}/os.py, so Python does not start in httpd" in outcome.stderr
    assert (outcome.stderr.count("\n"), outcome.returncode) == (1, 1)


def test_a_mod_wsgi_compiled_for_another_python_is_a_one_line_error(script: Path, shop: str, folder: Path) -> None:
    library = folder / "elsewhere" / f"libpython3.{sys.version_info.minor}.so.1.0"
    module = folder / "site" / "mod_wsgi" / "server" / "mod_wsgi.so"
    for file in (library, module):
        file.parent.mkdir(parents=True)
    (module.parents[1] / "__init__.py").touch()
    shared = ["gcc", "-shared", "-x", "c", "/dev/null", "-x", "none"]
    subprocess.run([*shared, "-o", library, f"-Wl,-soname,{library.name}"], check=True)
    rpath = f"-Wl,-rpath,{library.parent}"
    subprocess.run([*shared, "-o", module, "-Wl,--no-as-needed", library, rpath], check=True)
    command = [*WSGIPOOL, "serve", str(script), "--port", str(free_port()), "--database", f"shop={shop}"]

    outcome = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG,
        env={**os.environ, "PYTHONPATH": str(folder / "site")},
    )

    assert (
        f"mod_wsgi was compiled for another Python: it loads {library}, but would import the modules of"
        in outcome.stderr
    )
    assert (outcome.stderr.count("\n"), outcome.returncode) == (1, 1)


def test_an_application_that_cannot_be_imported_is_named_in_the_log(folder: Path, shop: str) -> None:
    broken = folder / "broken.wsgi"
    broken.write_text("import no_such_module\n")
    with command(folder, "serve", str(broken), "--database", f"shop={shop}") as site:
        site.wait_until_open()
        assert requests.get(site.url, timeout=LONG).status_code == 500

    assert "No module named 'no_such_module'" in site.output


# --- the look before the start ---------------------------------------------------------------------------------------


def refused(script: Path, *arguments: str) -> str:
    """Return the only line of a `wsgipool serve` that does not start httpd."""
    command = [*WSGIPOOL, "serve", str(script), "--port", str(free_port()), *arguments]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG)
    assert (outcome.returncode, outcome.stdout, outcome.stderr.count("\n")) == (1, "", 1), outcome
    assert outcome.stderr.endswith(" --force serves nevertheless.\n")
    return outcome.stderr


def test_a_syntax_error_is_one_line_before_the_start(script: Path, shop: str) -> None:
    module = script.parent / "site_under_test.py"
    module.write_text("import os\ndef page(:\n")

    error = refused(script, "--database", f"shop={shop}")

    assert error.startswith(f"wsgipool: {module}, line 2: SyntaxError: invalid syntax.")


def test_a_wrong_password_is_one_line_before_the_start(script: Path, shop: str) -> None:
    error = refused(script, "--database", f"shop={shop.replace(password_of(shop), 'wr0ng')}")

    assert "wsgipool: shop: mysql://" in error
    assert "Access denied" in error
    assert "Check user and password" in error
    assert "wr0ng" not in error


def test_a_dead_server_is_one_line_before_the_start(script: Path) -> None:
    error = refused(script, "--database", f"mysql://shop@127.0.0.1:{free_port()}/shop")

    assert "Connection refused" in error
    assert "start the server" in error


def test_more_threads_than_the_database_allows_are_one_line_before_the_start(script: Path, shop: str) -> None:
    error = refused(script, "--database", f"shop={shop}", "--processes", "10", "--threads", "1000")

    assert "In the worst case the processes ask for 10000 connections (shop), but max_connections of mysql://" in error
    assert "What fits: max_size = " in error


def test_serve_goes_on_in_spite_of_a_problem_if_asked(script: Path, folder: Path) -> None:
    database = f"shop=mysql://shop@127.0.0.1:{free_port()}/shop"
    with command(folder, "serve", str(script), "--database", database, "--force") as site:
        site.wait_until_open()
        assert requests.get(f"{site.url}/hold", timeout=LONG).status_code == 503

    (warning,) = (line for line in site.lines if "wsgipool: warning: " in line)
    assert "Connection refused" in warning


def test_an_application_of_another_type_is_not_compiled(shop: str, folder: Path) -> None:
    page = folder / "site.ini"
    page.write_text("[app:main]\n")
    options = ["--", "--application-type", "paste"]
    with command(folder, "serve", str(page), "--database", f"shop={shop}", *options) as site:
        site.wait_until_open()


def test_a_second_budget_for_a_server_is_found(script: Path, shop: str, folder: Path) -> None:
    settings = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        settings.append(folder / name / "wsgipool.toml")
        write_config(settings[-1], {"shop": shop}, {})
        add_budget(settings[-1], made_runtime_dir(folder / name), {"connections": 6})
    with command(folder / "one", "serve", str(script), "--config", str(settings[0])) as first:
        first.wait_until_open()
        assert requests.get(f"{first.url}/hold", timeout=LONG).status_code == 200
        with command(folder / "two", "serve", str(script), "--config", str(settings[1])) as second:
            second.wait_until_open()

    assert "second budget" not in first.output
    (warning,) = (line for line in second.lines if "wsgipool: warning: " in line)
    assert "has a second budget on this host: process " in warning
    assert f"counts its connections in {folder}/one/run, this site in {folder}/two/run;" in warning


# --- while it runs ---------------------------------------------------------------------------------------------------


def log_of_wsgi(site: Command) -> list[str]:
    """Return the lines of the application, the pool and mod_wsgi about errors."""
    return [line for line in site.lines if "[wsgi:error]" in line or "[wsgi:warn]" in line]


def test_an_outage_of_the_database_is_one_line_and_its_end_another(folder: Path) -> None:
    script = folder / "app.wsgi"
    script.write_text(
        "import wsgipool\n"
        "def application(environ, start_response):\n"
        "    with wsgipool.connection('shop'):\n"
        "        start_response('200 OK', [('Content-Length', '0')])\n"
        "    return []\n"
    )
    data = folder / "mariadb"
    data.mkdir()
    with MariaDB(data) as server:
        server.start()
        database = f"shop={server.create_database('shop')}"
        with command(folder, "serve", str(script), "--processes", "1", "--database", database) as site:
            site.wait_until_open()
            before = [requests.get(site.url, timeout=LONG).status_code for _ in range(2)]
            server.kill()
            during = [requests.get(site.url, timeout=LONG) for _ in range(5)]
            server.start()
            eventually(lambda: requests.get(site.url, timeout=LONG).status_code == 200, "the site to recover")

    assert before == [200, 200]
    assert [(each.status_code, each.headers["Retry-After"]) for each in during] == [(503, "5")] * 5
    down, up = log_of_wsgi(site)
    assert "wsgipool: cannot connect pool 'shop'" in down
    assert "wsgipool: pool 'shop' is connected" in up


def test_processes_restart_when_a_module_or_the_settings_change(script: Path, shop: str, folder: Path) -> None:
    settings = script.parent / "wsgipool.toml"
    settings.write_text(f'[databases.shop]\nurl = "{shop}"\nmax_size = 2\n')
    module = script.parent / "site_under_test.py"
    original = module.read_text()
    with command(folder, "serve", str(script), "--reload", "--processes", "1") as site:
        site.wait_until_open()

        def answer() -> dict[str, Any]:
            # A process that restarts answers nothing or 503.
            try:
                response = requests.get(f"{site.url}/hold", timeout=LONG)
                return dict(response.json()) if response.status_code == 200 else {}
            except (requests.RequestException, ValueError):
                return {}

        eventually(lambda: answer().get("max_size") == 2, "the first settings")
        settings.write_text(settings.read_text().replace("= 2", "= 3"))
        eventually(lambda: answer().get("max_size") == 3, "the changed settings")
        module.write_text(original.replace('"max_size": pool.max_size', '"max_size": "changed"'))
        eventually(lambda: answer().get("max_size") == "changed", "the changed module")
        module.write_text("def page(:\n")
        eventually(lambda: not answer(), "the syntax error")
        module.write_text(original)
        eventually(lambda: answer().get("max_size") == 3, "the mended module")


def test_reload_needs_daemon_mode(script: Path, shop: str) -> None:
    command = [*WSGIPOOL, "serve", str(script), "--database", f"shop={shop}", "--reload", "--mpm", "worker"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONG)

    assert outcome.returncode == 1
    assert outcome.stderr == "wsgipool: --reload needs daemon mode, whose processes can restart: leave --mpm out\n"


@pytest.mark.parametrize("arguments", [["--access-log"], []])
def test_requests_are_logged_on_request(arguments: list[str], script: Path, shop: str, folder: Path) -> None:
    with command(folder, "serve", str(script), "--database", f"shop={shop}", *arguments) as site:
        site.wait_until_open()
        assert requests.get(f"{site.url}/hold?logged", timeout=LONG).status_code == 200

    assert ('"GET /hold?logged HTTP/1.1" 200 ' in site.output) == bool(arguments)


# --- passwords, and what is left behind ------------------------------------------------------------------------------


def password_of(shop: str) -> str:
    return str(urlsplit(shop).password)


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_password_on_the_command_line_is_warned_of(script: Path, shop: str, folder: Path) -> None:
    with command(folder, "serve", str(script), "--database", f"shop={shop}") as site:
        site.wait_until_open()

    (warning,) = (line for line in site.lines if "warning" in line)
    assert "everyone on this host can see the password in --database" in warning
    assert "WSGIPOOL_DATABASE" in warning


def test_a_password_in_the_environment_is_in_no_file_and_no_command_line(
    script: Path, shop: str, folder: Path, mariadb: MariaDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, password = str(urlsplit(shop).username), "pässwörd € 'x' $HOME"
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER USER {user} IDENTIFIED BY %s", (password,))
    url = shop.replace(f":{password_of(shop)}@", f":{quote(password, safe='')}@")
    monkeypatch.setenv("WSGIPOOL_DATABASE", f"shop={url}")

    with command(folder, "serve", str(script), "--mpm", "daemon") as site:
        site.wait_until_open()
        assert requests.get(f"{site.url}/hold", timeout=LONG).status_code == 200
        commands = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        found = [files_with(each, site.temporary) for each in (password, quote(password, safe=""))]

    assert found == [[], []]
    assert "warning" not in site.output
    assert quote(password, safe="").encode() not in commands


def test_a_killed_serve_stops_httpd_and_leaves_no_password(script: Path, shop: str, folder: Path) -> None:
    with command(folder, "serve", str(script), "--database", f"shop={shop}") as site:
        site.wait_until_open()
        assert requests.get(f"{site.url}/hold", timeout=LONG).status_code == 200
        site.stop(signal.SIGKILL)

        eventually(lambda: not site.processes(), "httpd to end")

    assert files_with(password_of(shop), folder / "tmp") == []
    refuse_taken_port("127.0.0.1", site.port)


def test_other_users_cannot_change_the_files_of_serve(script: Path, shop: str, folder: Path) -> None:
    before = os.umask(0)
    try:
        with command(folder, "serve", str(script), "--database", f"shop={shop}") as site:
            site.wait_until_open()
            modes = {path: path.lstat().st_mode for path in site.temporary.rglob("*") if not path.is_socket()}
    finally:
        os.umask(before)

    assert [path.name for path in modes if path.name == "httpd.conf"] == ["httpd.conf"]
    assert [str(path) for path, mode in modes.items() if mode & 0o022 and not stat.S_ISLNK(mode)] == []


def test_the_apache_user_can_read_what_serve_writes_under_any_umask(script: Path, shop: str, folder: Path) -> None:
    before = os.umask(0o077)
    try:
        with command(folder, "serve", str(script), "--database", f"shop={shop}") as site:
            site.wait_until_open()
            assert requests.get(f"{site.url}/hold", timeout=LONG).status_code == 200
    finally:
        os.umask(before)


def test_settings_of_the_command_line_win_over_the_environment(
    script: Path, shop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSGIPOOL_CONFIG", str(folder / "another.toml"))

    with command(folder, "serve", str(script), "--database", f"shop={shop}") as site:
        site.wait_until_open()
        assert requests.get(f"{site.url}/hold", timeout=LONG).status_code == 200
