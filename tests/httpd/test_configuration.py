"""The interpretation of httpd's configuration, compared with real processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from httpd.harness import ExpressSite, running_site
from httpd.test_debian import DebianApache
from wsgipool.httpd import configuration
from wsgipool.httpd.configuration import Configuration, Mpm
from wsgipool.httpd.dump import HttpdConfigError
from wsgipool.httpd.express import DROP_IN, MODES, apache_user
from wsgipool.plan.sizing import ProcessGroup

MODULES = "/usr/lib/apache2/modules"


def of_running(site: ExpressSite, monkeypatch: pytest.MonkeyPatch) -> Configuration:
    """Read the configuration of a running httpd, with its command line and environment."""
    process = Path(f"/proc/{site.httpd.pid}")
    for variable in (process / "environ").read_text().split("\0"):
        name, separator, value = variable.partition("=")
        if separator and name.startswith(("MOD_WSGI_", "PYTHON")):
            monkeypatch.setenv(name, value)
    command = (process / "cmdline").read_text().rstrip("\0").split("\0")
    options = [word for word in command[1:] if word not in ("-k", "start", "-DFOREGROUND")]
    return configuration.read(str((process / "exe").readlink()), options)


@pytest.mark.parametrize("mode", MODES)
def test_the_configuration_and_the_processes_agree(
    mode: str, shop: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_site(folder, mode, {"shop": shop}, processes=3, threads=1 if mode == "prefork" else 5) as site:
        inside = site.get("/server")
        outside = of_running(site, monkeypatch)

    assert outside.mpm.name == inside["mpm"]
    (group,) = outside.groups
    assert group.mode == mode
    assert group.name == inside["process_group"]
    assert (group.processes, group.threads) == (inside["max_processes"], inside["threads"])
    assert group.interpreters == 1
    assert outside.defines["WSGIPOOL_CONFIG"] == str(folder / "wsgipool.toml")


# --- sizes of the MPM ------------------------------------------------------------------------------------------------


def write(folder: Path, mpm: str, text: str) -> list[str]:
    """Write a configuration of Debian's modules and return httpd's options for it."""
    (folder / "logs").mkdir()
    file = folder / "httpd.conf"
    modules = (f"mpm_{mpm}", "authz_core", "wsgi")
    loads = "".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in modules)
    file.write_text(f"ServerRoot {folder}\nServerName localhost\n{loads}DefaultRuntimeDir {folder}\n{text}")
    return ["-f", str(file)]


def read(folder: Path, mpm: str, text: str) -> Configuration:
    return configuration.read("apache2", write(folder, mpm, text))


ANY_SCRIPT = "WSGIScriptAlias / /srv/app.wsgi application-group=%{GLOBAL}\n"


@pytest.mark.parametrize(
    ("mpm", "text", "expected"),
    [
        ("prefork", "", Mpm("prefork", 256, 256, 1)),
        ("worker", "", Mpm("worker", 16, 16, 25)),
        ("event", "", Mpm("event", 16, 16, 25)),
        ("prefork", "MaxRequestWorkers 20\n", Mpm("prefork", 20, 256, 1)),
        ("prefork", "ServerLimit 10\nMaxRequestWorkers 20\n", Mpm("prefork", 10, 10, 1)),
        ("prefork", "MaxClients 7\n", Mpm("prefork", 7, 256, 1)),
        ("event", "ServerLimit 3\nServerLimit 4\nThreadsPerChild 10\n", Mpm("event", 4, 4, 10)),
        ("event", "MaxRequestWorkers 150\n", Mpm("event", 6, 16, 25)),
        ("worker", "ThreadsPerChild 10\nMaxRequestWorkers 25\n", Mpm("worker", 2, 16, 10)),
        ("worker", "ThreadsPerChild 100\nMaxRequestWorkers 128\n", Mpm("worker", 2, 16, 64)),
        ("worker", "Define N 8\nThreadsPerChild ${N}\nMaxRequestWorkers 8\n", Mpm("worker", 1, 16, 8)),
        ("event", "<IfModule mpm_prefork_module>\nServerLimit 2\n</IfModule>\n", Mpm("event", 16, 16, 25)),
    ],
)
def test_sizes_of_the_mpm_are_those_that_httpd_uses(mpm: str, text: str, expected: Mpm, folder: Path) -> None:
    assert read(folder, mpm, text + ANY_SCRIPT).mpm == expected


def test_apaches_children_are_counted_with_those_of_a_graceful_restart(folder: Path) -> None:
    known = read(folder, "event", "MaxRequestWorkers 150\n" + ANY_SCRIPT)

    (group,) = known.groups
    assert group == ProcessGroup("", "event", processes=6, alive=16, threads=25, user=group.user)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("User {name}\n", {"": "{name}", "shop": "{name}"}),
        ("User #{number}\n", {"": "{name}", "shop": "{name}"}),
        ("User {name}\nWSGIDaemonProcess shop user=daemon\n", {"": "{name}", "shop": "daemon"}),
        ("User {name}\nWSGIDaemonProcess shop user=#1\n", {"": "{name}", "shop": "daemon"}),
        ("User #4294967294\n", {"": "#4294967294", "shop": "#4294967294"}),  # which does not exist on this host
    ],
)
def test_each_group_has_the_user_that_its_processes_run_as(text: str, expected: dict[str, str], folder: Path) -> None:
    names = {"name": apache_user().pw_name, "number": apache_user().pw_uid}
    daemon = "" if "WSGIDaemonProcess" in text else "WSGIDaemonProcess shop\n"
    shop = "WSGIScriptAlias /shop /srv/shop.wsgi process-group=shop\n"

    known = read(folder, "event", text.format(**names) + daemon + ANY_SCRIPT + shop)

    assert {group.name: group.user for group in known.groups} == {
        name: user.format(**names) for name, user in expected.items()
    }


# --- where scripts run -----------------------------------------------------------------------------------------------


def places(folder: Path, text: str) -> dict[str, tuple[int, int, int]]:
    """Return the processes, threads and interpreters of each process group."""
    known = read(folder, "prefork", "MaxRequestWorkers 9\n" + text)
    return {group.name: (group.processes, group.threads, group.interpreters) for group in known.groups}


DAEMONS = 'WSGIDaemonProcess shop processes=2 threads=3\nWSGIDaemonProcess "the blog" display-name="%{GROUP} x"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WSGIScriptAlias / /srv/a.wsgi\n", {"": (9, 1, 1)}),
        ("WSGIScriptAlias / /srv/a.wsgi process-group=shop\n", {"shop": (2, 3, 1)}),
        # Numbers are read as by atoi, and a group without threads can still import scripts.
        (
            "WSGIDaemonProcess jobs processes=2x threads=0\nWSGIScriptAlias / /srv/a.wsgi process-group=jobs\n",
            {"jobs": (2, 1, 1)},
        ),
        ('WSGIScriptAlias / /srv/a.wsgi process-group="the blog"\n', {"the blog": (1, 15, 1)}),
        ("WSGIProcessGroup shop\nWSGIScriptAlias / /srv/a.wsgi\n", {"shop": (2, 3, 1)}),
        ("WSGIProcessGroup shop\nWSGIScriptAlias / /srv/a.wsgi process-group=%{GLOBAL}\n", {"": (9, 1, 1)}),
        ("WSGIScriptAlias /a /srv/a.wsgi\nWSGIScriptAlias /b /srv/b.wsgi\n", {"": (9, 1, 2)}),
        (
            "WSGIApplicationGroup %{GLOBAL}\nWSGIScriptAlias /a /srv/a.wsgi\nWSGIScriptAlias /b /srv/b.wsgi\n",
            {"": (9, 1, 1)},
        ),
        (
            "WSGIScriptAlias / /usr/lib/a.wsgi\n<Directory /usr/lib>\nWSGIProcessGroup shop\n</Directory>\n"
            "<Directory /usr/share>\nWSGIProcessGroup 'the blog'\n</Directory>\n",
            {"shop": (2, 3, 1)},
        ),
        (
            "WSGIScriptAlias / /srv/a.wsgi\n<Location /api>\nWSGIProcessGroup shop\n</Location>\n",
            {"": (9, 1, 1), "shop": (2, 3, 1)},
        ),
        (
            "WSGIApplicationGroup %{GLOBAL}\nWSGIProcessGroup shop\n<VirtualHost *:81>\n"
            "WSGIProcessGroup 'the blog'\nWSGIScriptAlias / /srv/blog.wsgi\n</VirtualHost>\n"
            "<VirtualHost *:82>\nWSGIScriptAlias / /srv/shop.wsgi\n</VirtualHost>\n",
            {"shop": (2, 3, 1), "the blog": (1, 15, 1)},
        ),
        (
            "WSGIApplicationGroup %{SERVER}\nWSGIProcessGroup shop\n"
            "<VirtualHost *:81>\nWSGIScriptAlias / /srv/a.wsgi\n</VirtualHost>\n"
            "<VirtualHost *:82>\nWSGIScriptAlias / /srv/a.wsgi\nWSGIScriptAlias /b /srv/b.wsgi\n</VirtualHost>\n",
            {"shop": (2, 3, 2)},
        ),
        (
            "<Directory /srv>\nSetHandler wsgi-script\nWSGIProcessGroup shop\n</Directory>\n",
            {"shop": (2, 3, 1)},
        ),
        (
            "WSGIScriptAlias / /srv/a.wsgi process-group=shop\n<Location /private>\n"
            "WSGIAuthUserScript /srv/users.py\n</Location>\n",
            {"": (9, 1, 1), "shop": (2, 3, 1)},
        ),
        (
            "WSGIScriptAlias / /srv/a.wsgi\n<LocationMatch ^/api>\nWSGIProcessGroup shop\n</LocationMatch>\n",
            {"": (9, 1, 1), "shop": (2, 3, 1)},
        ),
        ("WSGIImportScript /srv/jobs.py process-group=shop application-group=%{GLOBAL}\n", {"shop": (2, 3, 1)}),
        (
            "WSGIScriptAlias / /srv/a.wsgi\nWSGIProcessGroup %{ENV:GROUP}\n",
            {"": (9, 1, 1), "shop": (2, 3, 1), "the blog": (1, 15, 1)},
        ),
        (
            "WSGIRestrictEmbedded On\nWSGIScriptAlias / /srv/a.wsgi\nWSGIProcessGroup %{ENV:GROUP}\n",
            {"shop": (2, 3, 1), "the blog": (1, 15, 1)},
        ),
    ],
)
def test_only_groups_that_run_scripts_are_counted(
    text: str, expected: dict[str, tuple[int, int, int]], folder: Path
) -> None:
    assert places(folder, DAEMONS + text) == expected


def test_interpreters_that_visitors_can_multiply_are_noted(folder: Path) -> None:
    assert (
        "the visitor's Host header can make more" in read(folder, "event", "WSGIScriptAlias / /srv/a.wsgi\n").notes[0]
    )


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_a_refused_configuration_shows_the_message_of_httpd(folder: Path) -> None:
    with pytest.raises(HttpdConfigError) as caught:
        read(folder, "event", "ThreadsPerChildren 5\n")

    assert f"Syntax error on line 7 of {folder}/httpd.conf" in str(caught.value)
    assert "Invalid command 'ThreadsPerChildren'" in str(caught.value)


def test_a_configuration_without_scripts_is_an_error_with_a_remedy(folder: Path) -> None:
    with pytest.raises(HttpdConfigError, match="has no WSGIScriptAlias"):
        read(folder, "event", "")


def test_a_configuration_without_mod_wsgi_is_an_error_with_a_remedy(folder: Path) -> None:
    options = write(folder, "event", "")
    file = folder / "httpd.conf"
    file.write_text(file.read_text().replace("LoadModule wsgi_module", "#"))

    with pytest.raises(HttpdConfigError, match="does not load mod_wsgi"):
        configuration.read("apache2", options)


def test_mod_info_may_be_enabled_already(folder: Path) -> None:
    assert read(folder, "event", f"LoadModule info_module {MODULES}/mod_info.so\n" + ANY_SCRIPT).mpm.name == "event"


# --- Debian ----------------------------------------------------------------------------------------------------------


def test_debians_apache2ctl_knows_the_environment_of_its_apache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apache = DebianApache(folder)
    apache.run("a2dismod", "-q", "-f", "mpm_prefork", "mpm_event")
    apache.run("a2enmod", "-q", "mpm_worker", "wsgi")
    apache.write("sites-enabled/shop.conf", ANY_SCRIPT)
    monkeypatch.setenv("APACHE_CONFDIR", str(apache.confdir))
    packaged = subprocess.run(
        ["grep", "-h", "MaxRequestWorkers", "/etc/apache2/mods-available/mpm_worker.conf"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    known = configuration.read()

    assert known.program.endswith("apache2ctl")
    assert packaged.split()[-1] == "150"
    assert known.mpm == Mpm("worker", 6, 16, 25)
    assert known.groups == [ProcessGroup("", "worker", processes=6, alive=12, threads=25, user="www-data")]


def test_a_program_that_is_not_httpd_is_an_error() -> None:
    with pytest.raises(HttpdConfigError, match="no-such-httpd was not found; name httpd's program with --httpd"):
        configuration.read("no-such-httpd")


# --- places with a blank ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "defines",
    [
        [],
        ["WSGIPOOL_SIZING"],
        ["WSGIPOOL_STATUS"],
        ["WSGIPOOL_SIZING", "WSGIPOOL_STATUS", "WSGIPOOL_HEALTH", "WSGIPOOL_METRICS"],
    ],
)
def test_the_path_of_the_drop_in_may_have_a_blank(defines: list[str], folder: Path) -> None:
    place = folder / "my site"
    place.mkdir()
    (place / "wsgipool").symlink_to(DROP_IN.parents[1])
    modules = "/usr/lib/apache2/modules"
    lines = [
        f'ServerRoot "{place}"',
        f'ErrorLog "{place}/error_log"',
        "ServerName localhost",
        *(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in ("mpm_event", "authz_core", "authz_host")),
        *(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in ("alias", "wsgi")),
        *(f"Define {define}" for define in defines),
        f'Define WSGIPOOL_HOME "{place}/wsgipool"',
        f'Define WSGIPOOL_DROP_IN "{place}/wsgipool/apache/wsgipool.conf"',
        f'Define WSGIPOOL_PYTHON_HOME "{place}"',
        f'Define WSGIPOOL_CONFIG "{place}/wsgipool.toml"',
        f'Include "{place}/wsgipool/apache/wsgipool.conf"',
        f'WSGIScriptAlias / "{place}/app.wsgi"',
    ]
    (place / "httpd.conf").write_text("\n".join(lines) + "\n")

    found = configuration.read("apache2", ["-f", str(place / "httpd.conf")])

    assert found.drop_in == place / "wsgipool" / "apache" / "wsgipool.conf"
    assert [site.script for site in found.sites] == [place / "app.wsgi"]


def test_a_running_server_is_read_with_its_own_options_and_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apache = DebianApache(folder)
    monkeypatch.setenv("APACHE_CONFDIR", str(apache.confdir))
    monkeypatch.setenv("APACHE_PID_FILE", str(folder / "apache2.pid"))
    apache.run("a2enmod", "-q", "wsgi")
    apache.write(
        "conf-enabled/shop.conf",
        "WSGIDaemonProcess shop processes=${SHOP_PROCESSES}\n"
        "<IfDefine BLOG>\nWSGIDaemonProcess blog processes=4\nWSGIScriptAlias /blog /srv/b.wsgi process-group=blog\n"
        "</IfDefine>\nWSGIScriptAlias / /srv/a.wsgi process-group=shop\n"
        f"ErrorLog {folder}/error_log\nWSGISocketPrefix {folder}/wsgi\n",
    )

    with apache.running("-D", "BLOG", SHOP_PROCESSES="3"):
        found = configuration.read()

    assert {group.name: group.processes for group in found.groups} == {"shop": 3, "blog": 4}
