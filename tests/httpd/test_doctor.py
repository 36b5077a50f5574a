"""`wsgipool doctor` on real sites: each has one problem, and its code is the only finding."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pymysql
import pytest
from click.testing import CliRunner, Result

import wsgipool
from httpd.harness import add_budget, eventually, made_runtime_dir, sessions, write_config
from wsgipool.cli import main
from wsgipool.demo.mariadb import MariaDB
from wsgipool.doctor.findings import CODES, Severity
from wsgipool.httpd.express import MODES, apache_user, free_port
from wsgipool.shared import folder as host_folder

MODULES = "/usr/lib/apache2/modules"
PACKAGE = Path(wsgipool.__file__).parent
DROP_IN = PACKAGE / "apache" / "wsgipool.conf"
IN_DAEMON = "process-group=shop application-group=%{GLOBAL}"
EMBEDDED = "process-group=%{GLOBAL} application-group=%{GLOBAL}"

Setting = str | int


class SiteUnderExamination:
    """A site on Debian's httpd and mod_wsgi, to which a test adds one problem."""

    def __init__(self, folder: Path, mode: str, shop: str) -> None:
        self.folder = folder
        self.shop = shop
        self.settings = folder / "wsgipool.toml"
        self.mod_wsgi = Path(f"{MODULES}/mod_wsgi.so")
        self._mpm = "event" if mode == "daemon" else mode
        is_daemon = mode == "daemon"
        own_processes = "WSGIDaemonProcess shop processes=2 threads=5\nWSGISocketRotation Off"
        self._before = [own_processes if is_daemon else "Define WSGIPOOL_SIZING"]
        self._after: list[str] = []
        (folder / "app.wsgi").write_text("import wsgipool\n")
        self.write_settings({})
        self.run_script(IN_DAEMON if is_daemon else EMBEDDED)

    def write_settings(self, settings: dict[str, Setting], url_options: str = "") -> None:
        write_config(self.settings, {"shop": self.shop + url_options}, settings)
        self.settings.chmod(0o600)

    def write_budget(self, connections: int, runtime_dir: Path | None = None) -> None:
        """Add a [budget] whose processes share the given folder, by default a new one."""
        add_budget(self.settings, runtime_dir or made_runtime_dir(self.folder), {"connections": connections})

    def write_budget_without_folder(self, connections: int) -> None:
        with self.settings.open("a") as file:
            file.write(f"[budget]\nconnections = {connections}\n")

    def run_also_as(self, user: str) -> None:
        """Let a second script run in daemon processes of another user."""
        self.write_apache(f"WSGIDaemonProcess other processes=1 threads=2 user={user} group={user}")
        options = "process-group=other application-group=%{GLOBAL}"
        self.append_apache(f"WSGIScriptAlias /other {self.folder}/app.wsgi {options}\n{_joining(options)}")

    def run_script(self, options: str) -> None:
        """Let the site's script run with these options, which name its process group and its application group."""
        self._script = f"WSGIScriptAlias / {self.folder}/app.wsgi {options}\n{_joining(options)}"

    def write_apache(self, text: str) -> None:
        """Add lines to the configuration before wsgipool.conf."""
        self._before.append(text)

    def append_apache(self, text: str) -> None:
        """Add lines at the end of the configuration."""
        self._after.append(text)

    def options(self) -> list[str]:
        """Return httpd's options for the current state of the site."""
        account = apache_user().pw_name
        modules = {f"mpm_{self._mpm}": f"{MODULES}/mod_mpm_{self._mpm}.so", "wsgi": self.mod_wsgi}
        modules["authz_core"] = f"{MODULES}/mod_authz_core.so"
        configuration = [
            f"ServerRoot {self.folder}",
            "ServerName localhost",
            *(f"LoadModule {name}_module {file}" for name, file in modules.items()),
            *([f"User {account}", f"Group {account}"] if os.geteuid() == 0 else []),
            f"Listen 127.0.0.1:{free_port()}",
            f"DefaultRuntimeDir {self.folder}",
            f"PidFile {self.folder}/httpd.pid",
            f"ErrorLog {self.folder}/error_log",
            f"WSGISocketPrefix {self.folder}/wsgi",
            f"Define WSGIPOOL_HOME {PACKAGE}",
            f"Define WSGIPOOL_CONFIG {self.settings}",
            "Define WSGIPOOL_PROCESSES 2",
            "Define WSGIPOOL_THREADS 5",
            "Define WSGIPOOL_REQUEST_WORKERS 10",
            *self._before,
            f"Include {DROP_IN}",
            self._script,
            *self._after,
        ]
        file = self.folder / "httpd.conf"
        file.write_text("\n".join(configuration) + "\n")
        return ["-f", str(file)]

    @contextmanager
    def running(self, *, user: str | None = None, **environment: str) -> Iterator[int]:
        """Run the site, as another user and with further variables if given; yield the id of its process."""
        process = subprocess.Popen(
            ["/usr/sbin/apache2", *self.options(), "-DFOREGROUND"],
            env={**os.environ, **environment},
            user=user,
            start_new_session=True,
        )
        try:
            eventually(lambda: process.poll() is not None or (self.folder / "httpd.pid").exists(), "httpd")
            assert process.poll() is None
            yield process.pid
        finally:
            process.terminate()
            process.wait(30)

    def examine(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, self._command(*arguments), env={"WSGIPOOL_CONFIG": None})

    def examine_as(self, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "WSGIPOOL_CONFIG"}
        command = [sys.executable, "-m", "wsgipool", *self._command(*arguments)]
        return subprocess.run(command, env=environment, user=user, capture_output=True, text=True, check=False)

    def _command(self, *arguments: str) -> list[str]:
        return ["doctor", "--httpd", "apache2", *arguments, "--", *self.options()]

    def findings(self, *arguments: str) -> dict[str, str]:
        """Return the findings by code, without notes; assert that the exit status reflects them."""
        outcome = self.examine("--json", *arguments)
        assert outcome.stdout, outcome.stderr
        assert str(urlsplit(self.shop).password) not in outcome.stdout + outcome.stderr
        found = json.loads(outcome.stdout)
        assert outcome.exit_code == any(finding["severity"] == "error" for finding in found)
        order = [Severity[finding["severity"].upper()] for finding in found]
        assert order == sorted(order)
        return {finding["code"]: finding["what"] for finding in found if finding["severity"] != "note"}

    def findings_of(self, user: str) -> dict[str, str]:
        """Return the findings of a user, with notes; those of one code are joined."""
        outcome = self.examine_as(user, "--json")
        assert outcome.stdout, outcome.stderr
        found: dict[str, str] = {}
        for finding in json.loads(outcome.stdout):
            found[finding["code"]] = found.get(finding["code"], "") + finding["what"]
        assert outcome.returncode == any(CODES[code] is Severity.ERROR for code in found)
        return found

    def remedies(self) -> dict[str, str]:
        return {finding["code"]: finding["remedy"] for finding in json.loads(self.examine("--json").stdout)}

    def notes(self) -> set[str]:
        found = json.loads(self.examine("--json").stdout)
        return {finding["code"] for finding in found if finding["severity"] == "note"}


def _joining(options: str) -> str:
    return f"WSGIImportScript {PACKAGE}/handlers/preload.py {options}"


@pytest.fixture
def daemon(folder: Path, shop: str) -> SiteUnderExamination:
    return SiteUnderExamination(folder, "daemon", shop)


@pytest.fixture
def prefork(folder: Path, shop: str) -> SiteUnderExamination:
    return SiteUnderExamination(folder, "prefork", shop)


@pytest.fixture
def user(shop: str) -> str:
    return str(urlsplit(shop).username)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask what others may read")


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_site_made_as_the_readme_says_has_no_problem(mode: str, folder: Path, shop: str) -> None:
    site = SiteUnderExamination(folder, mode, shop)

    assert site.findings() == {}


def test_findings_have_a_remedy_and_no_password_and_the_worst_comes_first(
    daemon: SiteUnderExamination, shop: str
) -> None:
    daemon.settings.chmod(0o644)
    daemon.write_settings({"reset": "none"})
    daemon.settings.chmod(0o644)

    outcome = daemon.examine()

    assert outcome.exit_code == 1
    lines = re.findall(r"^(error|warning|note): ([\w-]+)\n    \S.*\n    Do: \S.*$", outcome.stdout, re.M)
    assert lines == [
        ("error", "transactions-left-open"),
        ("warning", "secret-readable"),
    ]
    assert outcome.stdout.endswith("\n1 error, 1 warning, 0 notes\n")
    assert str(urlsplit(shop).password) not in outcome.stdout


def test_the_running_server_and_its_environment_are_examined(daemon: SiteUnderExamination, shop: str) -> None:
    password = str(urlsplit(shop).password)
    write_config(daemon.settings, {"shop": shop.replace(f":{password}@", "@")}, {"password_env": "SHOP_PASSWORD"})
    blind = daemon.findings()

    with daemon.running(SHOP_PASSWORD=password) as pid:
        seeing = daemon.examine()

    assert "the environment has no variable SHOP_PASSWORD" in blind["settings-invalid"]
    assert seeing.exit_code == 0, seeing.stdout
    assert f"/usr/sbin/apache2: event MPM, running as process {pid}\n" in seeing.stdout
    assert "\ndatabase shop: mysql://" in seeing.stdout


# --- httpd's configuration -------------------------------------------------------------------------------------------


def test_a_configuration_that_httpd_refuses(daemon: SiteUnderExamination) -> None:
    daemon.write_apache("ThreadsPerChildren 5")

    found = daemon.findings("--config", str(daemon.settings))

    assert list(found) == ["configuration-refused"]
    assert "Invalid command 'ThreadsPerChildren'" in found["configuration-refused"]


def test_a_missing_httpd(daemon: SiteUnderExamination) -> None:
    outcome = CliRunner().invoke(main, ["doctor", "--httpd", "no-such-httpd", "--config", str(daemon.settings)])

    assert outcome.exit_code == 1
    assert (
        "error: configuration-refused\n    no-such-httpd was not found; name httpd's program with --httpd.\n"
        in outcome.stdout
    )


@pytest.mark.parametrize("group", ["%{RESOURCE}", "%{SERVER}", "shop.example|/app"])
def test_application_groups_that_multiply_pools(group: str, daemon: SiteUnderExamination) -> None:
    daemon.run_script(f"process-group=shop application-group={group}")

    assert list(daemon.findings()) == ["interpreters-multiply-pools"]


def test_scripts_of_two_folders_in_one_interpreter(daemon: SiteUnderExamination) -> None:
    other = daemon.folder / "other"
    other.mkdir()
    (other / "app.wsgi").touch()
    daemon.append_apache(f"WSGIScriptAlias /other {other}/app.wsgi {IN_DAEMON}")

    found = daemon.findings()

    assert list(found) == ["scripts-share-interpreter"]
    assert f"{daemon.folder}/app.wsgi and {other}/app.wsgi run in one interpreter" in found["scripts-share-interpreter"]


def test_a_site_whose_pools_no_process_loads_at_its_start(daemon: SiteUnderExamination) -> None:
    daemon.append_apache(f"WSGIScriptAlias /other {daemon.folder}/app.wsgi {IN_DAEMON.replace('%{GLOBAL}', 'other')}")

    assert daemon.notes() == {"site-not-pooled"}


def test_sizes_that_httpd_corrects(folder: Path, shop: str) -> None:
    site = SiteUnderExamination(folder, "worker", shop)
    site.append_apache("ServerLimit 2\nThreadsPerChild 5\nMaxRequestWorkers 50")

    found = site.findings()

    assert "AH00318: WARNING: MaxRequestWorkers of 50 would require 10 servers" in found["sizes-corrected"]


def test_a_pool_that_is_larger_than_its_process(daemon: SiteUnderExamination) -> None:
    daemon.write_settings({"max_size": 6})

    assert "max_size = 6 is more than the 5 threads" in daemon.findings()["max-size-above-threads"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(30, "request-timeout-below-timeout"), (40, None), (60, "request-timeout-above-timeout")],
)
def test_a_request_timeout_below_or_far_above_the_timeout_of_the_pool(
    seconds: int, expected: str | None, daemon: SiteUnderExamination
) -> None:
    daemon.write_apache(f"WSGIDaemonProcess slow processes=1 threads=5 request-timeout={seconds}")
    daemon.run_script("process-group=slow application-group=%{GLOBAL}")

    found = {*daemon.findings(), *daemon.notes()}

    assert found == ({expected} if expected else set())


def test_a_request_timeout_with_a_pool_whose_timeout_is_0(daemon: SiteUnderExamination) -> None:
    daemon.write_settings({"timeout": 0})
    daemon.write_apache("WSGIDaemonProcess slow processes=1 threads=5 request-timeout=60")
    daemon.run_script("process-group=slow application-group=%{GLOBAL}")

    assert {*daemon.findings(), *daemon.notes()} == set()


def test_sockets_that_rotate_at_a_restart(daemon: SiteUnderExamination) -> None:
    before = daemon.notes()
    daemon.append_apache("WSGISocketRotation On")

    assert (before, daemon.notes()) == (set(), {"socket-rotation"})


def test_prefork_where_nothing_needs_it(prefork: SiteUnderExamination) -> None:
    assert prefork.notes() == {"prefork-without-need"}


# --- the host --------------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(folder: Path) -> Path:
    """A folder that the Apache user cannot enter."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    return closed


@as_root
@pytest.mark.parametrize("of", ["the environment", "the Python that it was made of"])
def test_a_python_that_the_apache_user_cannot_read(of: str, daemon: SiteUnderExamination, closed: Path) -> None:
    home = closed / "venv" if of == "the environment" else daemon.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    if of != "the environment":
        (closed / "bin").mkdir()
        content = re.sub(r"^home = .*", f"home = {closed}/bin", (home / "pyvenv.cfg").read_text(), flags=re.M)
        (home / "pyvenv.cfg").write_text(content)
    daemon.write_apache(f"WSGIPythonHome {home}")

    found = daemon.findings()

    assert list(found) == ["python-home-unreadable"]
    assert f"since {closed} does not let this user in" in found["python-home-unreadable"]


def test_a_python_that_mod_wsgi_was_not_built_for(daemon: SiteUnderExamination) -> None:
    home = daemon.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (home / "pyvenv.cfg").write_text(re.sub(r"3\.\d+\.\d+", "3.8.1", (home / "pyvenv.cfg").read_text()))
    daemon.write_apache(f"WSGIPythonHome {home}")

    found = daemon.findings()

    assert list(found) == ["python-version-differs"]
    assert f"{home} belongs to Python 3.8:" in found["python-version-differs"]


def test_a_mod_wsgi_that_lacks_a_function(daemon: SiteUnderExamination) -> None:
    content = daemon.mod_wsgi.read_bytes()
    daemon.mod_wsgi = daemon.folder / "mod_wsgi.so"
    daemon.mod_wsgi.write_bytes(content.replace(b"\0request_data\0", b"\0request_date\0"))

    found = daemon.findings()

    assert list(found) == ["mod-wsgi-too-old"]
    assert "has no mod_wsgi.request_data()" in found["mod-wsgi-too-old"]


@as_root
def test_settings_that_the_apache_user_cannot_read(daemon: SiteUnderExamination) -> None:
    os.chown(daemon.settings, 0, 0)

    assert list(daemon.findings()) == ["settings-unreadable"]
    account = apache_user()
    group = grp.getgrgid(account.pw_gid).gr_name
    for user in (account.pw_name, f"#{account.pw_uid}"):
        daemon.write_apache(f"User {user}")
        remedy = daemon.remedies()["settings-unreadable"]
        assert remedy == f"chgrp {group} {daemon.settings} && chmod 640 {daemon.settings}"


@as_root
def test_settings_in_a_folder_that_the_apache_user_cannot_enter(daemon: SiteUnderExamination, closed: Path) -> None:
    daemon.settings = daemon.settings.rename(closed / "wsgipool.toml")

    remedy = daemon.remedies()["settings-unreadable"]

    assert remedy == (
        f"Let {apache_user().pw_name} enter {closed} (chmod o+x {closed}), or move wsgipool.toml to a folder that this "
        "user can enter."
    )


@pytest.mark.parametrize("where", ["settings", "password_file"])
def test_a_password_that_others_can_read(where: str, daemon: SiteUnderExamination, shop: str) -> None:
    if where == "settings":
        daemon.settings.chmod(0o644)
    else:
        parts = urlsplit(shop)
        secret = daemon.folder / "password"
        secret.write_text(f"{parts.password}\n")
        secret.chmod(0o644)
        write_config(daemon.settings, {"shop": shop.replace(f":{parts.password}@", "@")}, {"password_file": "password"})

    assert list(daemon.findings()) == ["secret-readable"]
    file = daemon.settings if where == "settings" else daemon.folder / "password"
    group = grp.getgrgid(apache_user().pw_gid if os.geteuid() == 0 else os.getgid()).gr_name
    assert daemon.remedies()["secret-readable"] == f"chgrp {group} {file} && chmod 640 {file}"


@as_root
def test_a_password_that_the_groups_of_several_users_need(daemon: SiteUnderExamination) -> None:
    daemon.settings.chmod(0o644)
    daemon.run_also_as("daemon")

    remedy = daemon.remedies()["secret-readable"]

    assert remedy == f"chmod 640 {daemon.settings}, and chgrp it to a group of httpd's processes: daemon, www-data."


def test_invalid_settings(daemon: SiteUnderExamination) -> None:
    daemon.write_settings({"max_sise": 3})

    found = daemon.findings()

    assert list(found) == ["settings-invalid"]
    assert "did you mean max_size?" in found["settings-invalid"]


@pytest.mark.parametrize("url", ["mysqld://u:s3cret@h/d", "mysql://u:s3cret@h/d?bogus=1", "sqlite:////x.db?bogus=1"])
def test_a_url_that_no_process_can_use(url: str, daemon: SiteUnderExamination, shop: str) -> None:
    write_config(daemon.settings, {"shop": shop, "archive": url}, {})
    daemon.settings.chmod(0o600)

    found = daemon.findings()

    assert list(found) == ["settings-invalid"]
    assert f"{daemon.settings}: databases.archive.url: " in found["settings-invalid"]
    assert "s3cret" not in found["settings-invalid"]


@as_root
def test_other_users_than_root_learn_which_checks_were_left_out(daemon: SiteUnderExamination) -> None:
    shutil.chown(daemon.settings, "nobody")
    # The folder does not belong to `nobody`, which must not be an error here.
    daemon.write_budget(8)

    found = daemon.findings_of("nobody")

    name = apache_user().pw_name
    assert found == {
        "not-examined": f"Whether {name} can read the files that the processes need was not checked: only root and "
        "that user can do so."
    }


@as_root
@pytest.mark.parametrize("hidden", ["settings", "password_file", "ssl_ca"])
def test_a_file_that_only_this_user_cannot_read_is_no_error(
    hidden: str, daemon: SiteUnderExamination, shop: str, closed: Path
) -> None:
    shutil.chown(closed, apache_user().pw_name)
    secret = closed / "secret"
    secret.write_text("secret")
    if hidden != "settings":
        daemon.write_settings({"password_file": str(secret)} if hidden == "password_file" else {})
        if hidden == "password_file":
            daemon.settings.write_text(daemon.settings.read_text().replace(f":{urlsplit(shop).password}@", "@"))
        if hidden == "ssl_ca":
            daemon.write_settings({}, f"?ssl_ca={secret}")
        shutil.chown(daemon.settings, "nobody")

    assert list(daemon.findings_of("nobody")) == ["not-examined"]


@as_root
def test_the_apache_user_finds_the_errors_of_its_processes(daemon: SiteUnderExamination) -> None:
    os.chown(daemon.settings, 0, 0)

    assert list(daemon.findings_of(apache_user().pw_name)) == ["settings-unreadable"]


@as_root
def test_an_environment_that_only_root_may_read(daemon: SiteUnderExamination, shop: str) -> None:
    password = str(urlsplit(shop).password)
    write_config(daemon.settings, {"shop": shop.replace(f":{password}@", "@")}, {"password_env": "SHOP_PASSWORD"})
    shutil.chown(daemon.settings, "nobody")

    stopped = daemon.findings_of("nobody")
    with daemon.running(SHOP_PASSWORD=password) as pid:
        running = daemon.findings_of("nobody")

    assert list(stopped) == ["settings-invalid", "not-examined"]
    assert list(running) == ["not-examined"]
    assert (
        f"The environment of process {pid}, which may have 'SHOP_PASSWORD', cannot be read" in running["not-examined"]
    )


@as_root
def test_the_httpd_of_another_user_than_root_runs_as_that_user(daemon: SiteUnderExamination) -> None:
    shutil.chown(daemon.settings, "nobody")
    shutil.chown(daemon.folder, "nobody")

    stopped = daemon.findings_of("nobody")
    with daemon.running(user="nobody"):
        running = daemon.findings_of("nobody")
        believed_by_root = daemon.findings()

    assert (list(stopped), running) == (["not-examined"], {})
    # Root must not trust it: the process of another user could name any settings in its environment.
    assert list(believed_by_root) == ["settings-unreadable"]


@as_root
def test_the_children_of_roots_httpd_are_not_root(daemon: SiteUnderExamination) -> None:
    with daemon.running():
        os.chown(daemon.settings, 0, 0)
        assert list(daemon.findings()) == ["settings-unreadable"]


@as_root
def test_a_user_that_does_not_exist(daemon: SiteUnderExamination) -> None:
    daemon.write_apache("User #4294967294")

    outcome = daemon.examine("--json")

    found = {finding["code"]: finding["what"] for finding in json.loads(outcome.stdout)}
    assert "this host has no such user" in found["not-examined"]


# --- limits and the budget -------------------------------------------------------------------------------------------


def test_more_connections_than_the_server_allows(daemon: SiteUnderExamination) -> None:
    found = daemon.findings("--reserve", "195")

    assert list(found) == ["connections-over-limit"]
    assert "ask for 10 connections (shop), but max_connections" in found["connections-over-limit"]
    assert "5 would be refused (error 1040" in found["connections-over-limit"]


def test_more_connections_than_the_account_allows(daemon: SiteUnderExamination, mariadb: MariaDB, user: str) -> None:
    with mariadb.admin() as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER USER {user} WITH MAX_USER_CONNECTIONS 7")

    assert "max_user_connections of" in daemon.findings()["connections-over-limit"]


def test_more_sessions_of_others_than_the_reserve(daemon: SiteUnderExamination, mariadb: MariaDB, user: str) -> None:
    mariadb.create_database(f"{user}_other")
    with ExitStack() as held:
        for _ in range(20):
            held.enter_context(closing(mariadb.connect(f"{user}_other", mariadb.password)))

        found, enough, text = daemon.findings(), daemon.findings("--reserve", "30"), daemon.examine().stdout

    assert list(found) == ["others-above-reserve"]
    assert re.search(
        r"others have 2\d sessions now \(.*\), and the reserve for them is 5\.", found["others-above-reserve"]
    )
    assert enough == {}
    assert re.search(r"^mysql://\S+ now: 2\d sessions, at most \d+ since its start; .*, others have 2\d \(", text, re.M)


def test_a_budget_keeps_a_large_site_within_the_limit(daemon: SiteUnderExamination) -> None:
    daemon.write_budget(5)

    assert daemon.findings("--reserve", "195") == {}


def test_a_budget_that_is_more_than_the_server_allows(daemon: SiteUnderExamination) -> None:
    daemon.write_budget(8)

    assert list(daemon.findings("--reserve", "195")) == ["budget-over-limit"]


def test_a_budget_whose_folder_is_open_to_others(daemon: SiteUnderExamination) -> None:
    daemon.write_budget(8)
    (daemon.folder / "run").chmod(0o755)

    found = daemon.findings()

    assert list(found) == ["budget-folder-unusable"]
    assert "is open to others" in found["budget-folder-unusable"]


@as_root
def test_a_budget_whose_default_folder_cannot_be_used(
    daemon: SiteUnderExamination, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = apache_user()
    name, number, group = account.pw_name, account.pw_uid, grp.getgrgid(account.pw_gid).gr_name
    monkeypatch.setattr(host_folder, "RUN", daemon.folder)
    (daemon.folder / f"wsgipool-{number}").mkdir()
    daemon.write_budget_without_folder(8)

    remedy = daemon.remedies()["budget-folder-unusable"]

    path = daemon.folder / f"wsgipool-{number}"
    assert remedy == (
        f"install -d -m 700 -o {name} -g {group} {path}; for each boot, add this line to "
        f"/etc/tmpfiles.d/wsgipool.conf: d {path} 0700 {name} {group}"
    )


@as_root
def test_processes_of_two_users_have_a_budget_each(
    prefork: SiteUnderExamination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_folder, "RUN", prefork.folder)
    for user in (apache_user().pw_name, "daemon"):
        path = host_folder.run_folder(pwd.getpwnam(user).pw_uid)
        path.mkdir(mode=0o700)
        shutil.chown(path, user)
    prefork.run_also_as("daemon")
    prefork.write_budget_without_folder(2)
    shutil.chown(prefork.settings, group="daemon")
    prefork.settings.chmod(0o640)

    # Two children with a connection each, and a daemon process with two.
    fits, exceeds = prefork.findings("--reserve", "196"), prefork.findings("--reserve", "197")

    assert list(fits) == ["budget-for-each-user"]
    assert f"daemon and {apache_user().pw_name} have a [budget] each" in fits["budget-for-each-user"]
    assert list(exceeds) == ["budget-over-limit", "budget-for-each-user"]
    assert "budget of 2 a host for each of 2 users the processes may open 4 connections" in exceeds["budget-over-limit"]


@as_root
def test_a_runtime_dir_serves_one_user_only(daemon: SiteUnderExamination) -> None:
    daemon.run_also_as("daemon")
    daemon.write_budget(8)

    assert list(daemon.findings()) == ["settings-unreadable", "budget-folder-unusable"]
    assert "run the processes of daemon and www-data as the same user" in daemon.remedies()["budget-folder-unusable"]


@as_root
def test_a_budget_whose_folder_the_processes_cannot_make(daemon: SiteUnderExamination, closed: Path) -> None:
    daemon.write_budget(8, closed / "run")

    found = daemon.findings()

    assert list(found) == ["budget-folder-unusable"]
    assert f"they may not enter {closed}" in found["budget-folder-unusable"]
    assert not (closed / "run").exists()
    assert daemon.remedies()["budget-folder-unusable"].startswith(f"Let {apache_user().pw_name} enter {closed} ")


# --- the databases ---------------------------------------------------------------------------------------------------


def test_a_database_that_does_not_answer(daemon: SiteUnderExamination, shop: str) -> None:
    parts = urlsplit(shop)
    daemon.shop = shop.replace(f":{parts.password}@", ":wrong@")
    daemon.write_settings({})

    found = daemon.findings()

    assert list(found) == ["database-unreachable"]
    assert "Access denied" in found["database-unreachable"]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SET SESSION wait_timeout = 600", "idle-timeout-below-max-idle"),
        ("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED", "isolation-unusual"),
        ("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE", "isolation-unusual"),
        ("SET SESSION completion_type = CHAIN", "completion-type"),
    ],
)
def test_unusual_properties_of_sessions(statement: str, expected: str, daemon: SiteUnderExamination) -> None:
    daemon.write_settings({}, f"?init_command={statement}")

    assert list(daemon.findings()) == [expected]


def test_transactions_that_stay_open(daemon: SiteUnderExamination) -> None:
    daemon.write_settings({"reset": "none"})
    open_ended = daemon.findings()
    daemon.write_settings({"reset": "none"}, "?autocommit=true")

    assert (list(open_ended), daemon.findings()) == (["transactions-left-open"], {})


def test_databases_that_commit_at_different_times(daemon: SiteUnderExamination) -> None:
    write_config(daemon.settings, {"shop": daemon.shop, "stock": f"{daemon.shop}?autocommit=true"}, {})
    daemon.settings.chmod(0o600)

    assert daemon.notes() == {"autocommit-mixed"}


def test_a_server_that_was_full(folder: Path) -> None:
    (folder / "mariadb").mkdir(mode=0o755)
    with MariaDB(folder / "mariadb", {"max_connections": 10, "ssl": 0}) as mariadb:
        mariadb.start()
        url = mariadb.create_database("shop")
        use_up(mariadb, url)
        site = SiteUnderExamination(folder, "daemon", url)

        found = site.findings("--reserve", "0")

    assert "has had 11 connections at once" in found["limit-was-reached"]


def use_up(mariadb: MariaDB, url: str) -> None:
    """Ask a server for one connection more than it allows."""
    parts = urlsplit(url)
    account = {"user": parts.username, "password": str(parts.password)}
    with ExitStack() as opened, suppress(pymysql.OperationalError):
        while True:
            opened.enter_context(pymysql.connect(host="127.0.0.1", port=mariadb.port, **account))
    eventually(lambda: not sessions(mariadb, "shop"), "the sessions to end")
