"""`wsgipool plan` and `doctor` for several sites of one Apache, some with settings of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from httpd.harness import Settings, made_runtime_dir, write_config
from httpd.interpreters import HTTPD, Site
from wsgipool import config
from wsgipool.cli import main
from wsgipool.httpd.express import DROP_IN, PACKAGE
from wsgipool.httpd.samples import MAX_FILES

TWO_SITES = """
WSGIDaemonProcess shop processes=2 threads=5
WSGIDaemonProcess blog processes=3 threads=4
<VirtualHost *:${PORT}>
    ServerName shop.example.com
    WSGIScriptAlias / ${FOLDER}/shop/app.wsgi process-group=shop application-group=%{GLOBAL}
</VirtualHost>
<VirtualHost *:${PORT}>
    ServerName blog.example.com
    WSGIScriptAlias / ${FOLDER}/blog/app.wsgi process-group=blog application-group=%{GLOBAL}
</VirtualHost>
"""


@pytest.fixture
def sites(folder: Path, shop: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Two sites with a wsgipool.toml each, whose databases have the same name on the same server."""
    monkeypatch.delenv("WSGIPOOL_CONFIG", raising=False)
    site = Site(folder, TWO_SITES, ["shop/app.wsgi", "blog/app.wsgi"])
    write_settings(site, shop, {})
    return site


def write_settings(site: Site, url: str, settings: Settings) -> None:
    for name in ("shop", "blog"):
        write_config(site.folder / name / "wsgipool.toml", {"orders": url}, settings)


def run(command: str, site: Site, *options: str) -> Result:
    return CliRunner().invoke(main, [command, "--httpd", HTTPD, *options, "--", *site.options])


def planned(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("plan", site, "--json").stdout)
    return found


def test_a_plan_adds_up_the_pools_of_all_sites(sites: Site) -> None:
    found = planned(sites)

    files = [str(sites.folder / name / "wsgipool.toml") for name in ("shop", "blog")]
    assert found["settings"] == files
    assert [(row["group"], row["database"], row["worst_case"]) for row in found["rows"]] == [
        ("shop", f"orders ({files[0]})", 10),
        ("blog", f"orders ({files[1]})", 12),
    ]
    assert [limit["worst_case"] for limit in found["limits"]] == [22]


def test_sizes_that_fit_are_written_into_the_file_of_each_site(sites: Site, shop: str) -> None:
    write_settings(sites, shop, {"max_size": 3})

    result = run("plan", sites, "--max-connections", "15", "--write")

    sizes = [
        config.load(sites.folder / name / "wsgipool.toml").databases["orders"].max_size for name in ("shop", "blog")
    ]
    assert sizes == [2, 2], result.output  # 2 x 2 + 3 x 2 = 15 - 5


def test_sizes_of_a_daemon_group_are_written_into_its_line(sites: Site) -> None:
    result = run("plan", sites, "--max-connections", "9", "--write")

    assert result.exit_code == 0, result.output
    text = (sites.folder / "httpd.conf").read_text()
    assert "WSGIDaemonProcess shop processes=1 threads=5\nWSGIDaemonProcess blog processes=2 threads=4\n" in text


def test_each_folder_of_a_budget_is_counted(sites: Site) -> None:
    for name, connections in (("shop", 4), ("blog", 6)):
        file = sites.folder / name / "wsgipool.toml"
        runtime_dir = made_runtime_dir(sites.folder / name)
        budget = f'runtime_dir = "{runtime_dir}"\n[budget]\nconnections = {connections}\n'
        file.write_text(f"{budget}{file.read_text()}")

    assert [limit["worst_case"] for limit in planned(sites)["limits"]] == [10]


def test_the_doctor_examines_the_settings_of_each_site(sites: Site) -> None:
    broken = sites.folder / "blog" / "wsgipool.toml"
    broken.write_text("[databases.orders]\n")

    result = run("doctor", sites)

    assert result.exit_code == 1
    assert f"{broken}: databases.orders: no url" in result.stdout
    assert f"settings: {sites.folder}/shop/wsgipool.toml" in result.stdout


def test_the_pages_of_the_package_are_no_scripts_of_a_site(sites: Site) -> None:
    icons = sites.folder / "icons"
    icons.mkdir()
    for number in range(MAX_FILES + 1):
        (icons / f"{number}.png").touch()
    pages = "".join(f"Define WSGIPOOL_{page}\n" for page in ("STATUS", "HEALTH", "METRICS"))
    lines = f"Alias /icons/ {icons}/\nDefine WSGIPOOL_HOME {PACKAGE}\n{pages}Include {DROP_IN}\n"
    file = sites.folder / "httpd.conf"
    file.write_text(file.read_text() + lines)

    assert "every group is counted" not in run("plan", sites).stdout
    assert "scripts-share-interpreter" not in codes(sites)


# --- sites that are not yet as they should be ------------------------------------------------------------------------


def codes(site: Site) -> dict[str, str]:
    return {finding["code"]: finding["what"] for finding in json.loads(run("doctor", site, "--json").stdout)}


def test_scripts_of_two_folders_in_one_interpreter_are_a_warning(sites: Site) -> None:
    file = sites.folder / "httpd.conf"
    file.write_text(file.read_text().replace("process-group=blog", "process-group=shop"))

    found = codes(sites)["scripts-share-interpreter"]

    assert f"{sites.folder}/blog/app.wsgi and {sites.folder}/shop/app.wsgi run in one interpreter" in found


def test_a_site_whose_pools_are_not_loaded_at_the_start_is_a_note(sites: Site) -> None:
    lines = "WSGIImportScript {package}/handlers/preload.py process-group={name} application-group=%{{GLOBAL}}\n"
    file = sites.folder / "httpd.conf"
    file.write_text(file.read_text() + lines.format(package=PACKAGE, name="shop"))

    assert "blog/app.wsgi" in codes(sites)["site-not-pooled"]

    file.write_text(file.read_text() + lines.format(package=PACKAGE, name="blog"))
    assert "site-not-pooled" not in codes(sites)


def test_missing_settings_are_a_warning_since_a_framework_may_have_them(
    sites: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgipool.cli.site_settings.SYSTEM_CONFIG", sites.folder / "etc.toml")
    for name in ("shop", "blog"):
        (sites.folder / name / "wsgipool.toml").unlink()

    assert "settings-missing" in codes(sites)
    assert run("doctor", sites).exit_code == 0
