"""Sites that join one after the other on one Apache, by the lines of `wsgipool apache install`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from httpd.harness import pools_of_answering_process
from httpd.sites import PROCESSES, THREADS, Sites
from wsgipool.httpd.express import MODES, PACKAGE, apache_user, free_port

JOINED_SITES: dict[str, list[str]] = {"none": [], "the first": ["one"], "both": ["one", "two"]}


def two_sites(folder: Path, mode: str) -> Sites:
    sites = Sites(folder, mode)
    sites.add("one")
    sites.add("two")
    return sites


# --- sites that stay apart -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joined", JOINED_SITES)
@pytest.mark.parametrize("mode", MODES)
def test_two_sites_on_one_apache_stay_two(mode: str, joined: str, folder: Path) -> None:
    sites = two_sites(folder, mode)
    if names := JOINED_SITES[joined]:
        sites.join(*names)

    with sites.running():
        for name in names:
            sites.wait_for_pools(name)
        visits = [sites.visit(name) for _ in range(10) for name in ("one", "two")]

    assert [visit.text for visit in visits] == ["I am one", "I am two"] * 10
    for name in ("one", "two"):
        pools = {tuple(visit.pools or ()) for visit in visits if visit.text == f"I am {name}"}
        assert pools == {(name,) if name in names else ()}


@pytest.mark.parametrize("mode", MODES)
def test_a_site_that_has_not_joined_is_unchanged_by_the_others(mode: str, folder: Path) -> None:
    sites = two_sites(folder, mode)
    with sites.running():
        before = sites.visit("two")
    sites.join("one")

    with sites.running():
        sites.wait_for_pools("one")
        after = sites.visit("two")

    assert after == before
    assert after.pools is None


def test_scripts_of_one_server_name_on_two_ports_stay_two(folder: Path) -> None:
    sites = Sites(folder, "event")
    other_port = free_port()
    sites.apache.write("conf-enabled/listen.conf", f"Listen 127.0.0.1:{other_port}\n")
    sites.add("one")
    file = sites.add("two")
    text = file.read_text().replace("*:*", f"*:{other_port}").replace("two.example", "one.example")
    file.write_text(text)

    sites.join("one")
    printed = sites.apache.install()

    groups = re.findall(r"application-group=(\S+)\n", "".join(map(Path.read_text, file.parent.glob("*.conf"))))
    assert len(set(groups)) == 2
    assert printed.count(": joined") == 2


def test_a_script_of_the_main_server_leaves_virtual_hosts_unchanged(folder: Path) -> None:
    sites = Sites(folder, "event")
    file = sites.add("one")
    sites.add("two", 'WSGIScriptAlias /two "{script}"')
    # Virtual hosts inherit what stands here.
    alias = f"WSGIScriptAlias /one {folder}/one/app.wsgi"
    permission = f"<Directory {folder}/one>\nRequire all granted\n</Directory>\n"
    file.write_text(f"{alias}\n{permission}")
    with sites.running():
        before = sites.visit("two", "/two")

    refusal = sites.refusal("--site", f"{folder}/one/app.wsgi")
    (option,) = re.findall(r"write (application-group=\S+) into its WSGIScriptAlias, and run this again", refusal)
    file.write_text(f"{alias} {option}\n{permission}")
    sites.apache.install("--site", f"{folder}/one/app.wsgi")
    with sites.running():
        sites.wait_for_pools("one")
        visits = [sites.visit("two", path) for path in ("/one", "/two")]

    assert (visits[0].text, visits[0].pools) == ("I am one", ["one"])
    assert visits[1] == before


def test_a_script_at_two_paths_of_a_site_needs_the_lines_once(folder: Path) -> None:
    sites = two_sites(folder, "event")
    file = sites.add("shop", 'WSGIScriptAlias /a "{script}"\nWSGIScriptAlias / "{script}"')

    sites.join("shop")

    assert file.read_text().count("WSGIApplicationGroup") == 1
    assert sites.apache.install().count(f"{folder}/shop/app.wsgi): joined\n") == 1


# --- processes and interpreters --------------------------------------------------------------------------------------


def test_only_the_processes_of_a_site_load_its_pools(folder: Path) -> None:
    sites = Sites(folder, "daemon")
    sites.add("shop")
    sites.join("shop")
    with sites.running():
        sites.wait_for_pools("shop")
        visit = sites.visit("shop")

    plan = json.loads(sites.apache.run(sys.executable, "-m", "wsgipool", "plan", "--json"))

    assert (visit.process_group, visit.application_group, visit.pools) == ("shop", "", ["shop"])
    assert sites.log().count("daemon process group 'shop'") == PROCESSES
    assert "embedded in an Apache child" not in sites.log()
    (group,) = plan["groups"]
    assert (group["processes"], group["threads"], group["interpreters"]) == (PROCESSES, THREADS, 1)


@pytest.mark.parametrize("mode", ["event", "daemon"])
def test_the_host_header_of_visitors_makes_no_further_interpreter(mode: str, folder: Path) -> None:
    sites = Sites(folder, mode)
    sites.add("shop")
    sites.join("shop")

    with sites.running():
        visits = [sites.visit("shop", host=f"{name}.example:8{port}") for port, name in enumerate("abcd")]

    assert {visit.application_group for visit in visits} == {""}


def test_each_site_has_the_settings_beside_its_script(folder: Path) -> None:
    sites = two_sites(folder, "event")
    sites.join("one", "two")

    with sites.running():
        for name in ("one", "two"):
            sites.wait_for_pools(name)
        log = sites.log()

    for name in ("one", "two"):
        assert log.count(f"settings from {folder}/{name}/wsgipool.toml") == PROCESSES


# --- orders of files and lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["event", "daemon"])
@pytest.mark.parametrize("name", ["shop", "zshop"])
def test_a_site_of_red_hat_may_stand_before_or_after_the_drop_in(name: str, mode: str, folder: Path) -> None:
    sites = Sites(folder, mode)
    file = sites.add(name)
    confd, main_file = red_hat(sites, file)

    printed = sites.apache.install("--directory", str(confd), "--site", f"{name}.example", "--", "-f", str(main_file))
    sites.apache.options = ["-f", str(main_file)]
    with sites.running():
        sites.wait_for_pools(name)
        visit = sites.visit(name)

    assert f"wrote {confd}/{name}.conf (backup: {name}.conf.bak)\n" in printed
    assert sorted(path.name for path in confd.glob("*.conf")) == sorted(["wsgipool.conf", f"{name}.conf"])
    assert (visit.text, visit.pools) == (f"I am {name}", [name])


def red_hat(sites: Sites, site: Path) -> tuple[Path, Path]:
    """Write a configuration in the shape of Red Hat's, with a site; return its conf.d and its main file."""
    root = sites.folder / "httpd"
    for name in ("conf", "conf.d", "conf.modules.d"):
        (root / name).mkdir(parents=True)
    modules = ("mpm_event", "authz_core", "authz_host", "alias", "wsgi")
    (root / "conf.modules.d" / "00-base.conf").write_text(
        "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in modules)
    )
    (root / "conf.d" / site.name).write_text(site.read_text())
    account = apache_user().pw_name
    main_file = root / "conf" / "httpd.conf"
    main_file.write_text(
        f"ServerRoot {root}\nServerName localhost\nListen {sites.apache.url.removeprefix('http://')}\n"
        f"DefaultRuntimeDir {root}\nPidFile {root}/httpd.pid\nUser {account}\nGroup {account}\n"
        f"Include conf.modules.d/*.conf\n{(sites.apache.confdir / 'conf-available/base.conf').read_text()}"
        "<Directory />\nAllowOverride None\nRequire all denied\n</Directory>\nIncludeOptional conf.d/*.conf\n"
    )
    return root / "conf.d", main_file


def test_the_lines_stand_below_a_process_group_that_comes_later(folder: Path) -> None:
    sites = Sites(folder, "event")
    sites.add(
        "shop", 'WSGIProcessGroup shop\nWSGIScriptAlias / "{script}"\nWSGIDaemonProcess shop processes=2 threads=3'
    )

    sites.join("shop")
    with sites.running():
        sites.wait_for_pools("shop")

        assert sites.visit("shop").pools == ["shop"]


# --- what the command says -------------------------------------------------------------------------------------------


def test_the_command_names_each_site_and_its_lines(folder: Path) -> None:
    sites = two_sites(folder, "event")
    sites.join("one")

    printed = sites.apache.install()

    enabled = sites.apache.confdir / "sites-enabled"
    options = "process-group=%{GLOBAL} application-group=two.example"
    assert f"site one.example ({enabled}/one.conf:3, {folder}/one/app.wsgi): joined\n" in printed
    assert (
        f"site two.example ({enabled}/two.conf:3, {folder}/two/app.wsgi): needs these lines below its "
        "WSGIScriptAlias:\n"
        "    WSGIApplicationGroup two.example\n"
        f"    WSGIImportScript {folder}/two/app.wsgi {options}\n"
        f"    WSGIImportScript {PACKAGE}/handlers/preload.py {options}\n"
        "to write these lines: `"
    ) in printed
    assert "wsgipool apache install --site two.example`\n" in printed


def test_sites_with_settings_of_their_own_need_no_sample(folder: Path) -> None:
    sites = two_sites(folder, "event")

    assert "/etc/wsgipool.toml" not in sites.apache.install()


def test_an_unknown_site_is_refused_with_the_known_ones(folder: Path) -> None:
    sites = two_sites(folder, "event")

    assert sites.refusal("--site", "three.example") == (
        "wsgipool: --site: httpd's configuration has no site three.example; the sites with Python are: one.example, "
        "two.example\n"
    )


@pytest.mark.parametrize("line", ["WSGIScriptAliasMatch ^/x {script}", "WSGIScriptAlias /x/ FOLDER/shop/"])
def test_scripts_without_an_alias_of_their_own_are_named(line: str, folder: Path) -> None:
    sites = Sites(folder, "event")
    sites.add("shop", line.replace("FOLDER", str(folder)))

    printed = sites.apache.install("--config", str(folder / "wsgipool.toml"))

    assert printed.count("\nsite shop.example (") == 1
    assert ": no lines are known for a script that has no WSGIScriptAlias of its own; write one, or " in printed


MACRO = """<Macro Site $name $script>
    WSGIScriptAlias / "$script"
</Macro>
<VirtualHost *:*>
    ServerName shop.example
    Use Site shop "{script}"
</VirtualHost>
"""
CONTINUED = """<VirtualHost *:*>
    ServerName shop.example
    WSGIScriptAlias / \\
        "{script}"
</VirtualHost>
"""


@pytest.mark.parametrize("text", [MACRO, CONTINUED], ids=["macro", "continued line"])
def test_lines_that_cannot_be_inserted_are_printed(text: str, folder: Path) -> None:
    sites = Sites(folder, "event")
    sites.apache.run("a2enmod", "-q", "macro")
    file = sites.add("shop")
    file.write_text(text.replace("{script}", f"{folder}/shop/app.wsgi"))
    before = file.read_text()

    refusal = sites.refusal("--site", "shop.example")

    assert ": this is not a plain line of a file; write these lines below its WSGIScriptAlias: " in refusal
    assert f"WSGIImportScript {folder}/shop/app.wsgi process-group=%{{GLOBAL}}" in refusal
    assert file.read_text() == before


def test_a_group_that_another_line_opens_is_refused(folder: Path) -> None:
    sites = Sites(folder, "event")
    file = sites.add("shop", 'WSGIScriptAlias / "{script}"\nWSGIApplicationGroup %{{SERVER}}')

    refusal = sites.refusal("--site", "shop.example")

    enabled = sites.apache.confdir / "sites-enabled" / "shop.conf"
    assert f"remove the line `WSGIApplicationGroup %{{SERVER}}` ({enabled}:4), and run this again\n" in refusal
    assert "WSGIImportScript" not in file.read_text()


def test_lines_without_effect_are_not_kept(folder: Path) -> None:
    sites = Sites(folder, "event")
    file = sites.add("shop")
    sites.apache.write(
        "conf-enabled/groups.conf", f"<Directory {folder}>\nWSGIApplicationGroup %{{RESOURCE}}\n</Directory>\n"
    )
    before = file.read_text()

    refusal = sites.refusal("--site", "shop.example")

    assert "another directive decides where the script runs, so the site did not join" in refusal
    assert file.read_text() == before


def test_lines_that_httpd_refuses_leave_the_files_as_they_were(folder: Path) -> None:
    sites = two_sites(folder, "event")
    files = [sites.apache.confdir / "sites-available" / f"{name}.conf" for name in ("one", "two")]
    before = [file.read_text() for file in files]
    # httpd accepts the configuration until both files have been written.
    error = f'<IfFile "{files[0]}.bak">\n<IfFile "{files[1]}.bak">\nError "no lines here"\n</IfFile>\n</IfFile>\n'
    sites.apache.write("conf-enabled/refusing.conf", error)

    refusal = sites.refusal("--site", "one.example", "--site", "two.example")

    assert "no lines here" in refusal
    assert [file.read_text() for file in files] == before


# --- paths and names with a blank and signs --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["event", "daemon"])
def test_folders_and_groups_may_have_a_blank_and_signs(mode: str, folder: Path) -> None:
    name = "my shop's 100% $ite"
    home = folder / name / "venv"
    sites = Sites(folder, mode, environment(home))
    if mode == "daemon":
        group = f'WSGIDaemonProcess "{name}" processes=2 threads=3 python-home="{home}"\nWSGIProcessGroup "{name}"\n'
        sites.add("shop", group + 'WSGIScriptAlias / "{script}"', folder=f"{name}/shop")
    else:
        sites.add("shop", f'WSGIScriptAlias / "{{script}}" application-group="{name}"', folder=f"{name}/shop")
    sites.apache.write("conf-enabled/status.conf", "Define WSGIPOOL_STATUS\n")

    sites.join("shop")
    with sites.running():
        sites.wait_for_pools("shop")
        visit, status = sites.visit("shop"), sites.status("shop")

    assert name in (visit.process_group, visit.application_group)
    assert visit.pools == pools_of_answering_process(status) == ["shop"]
    assert sites.log().count(f"settings from {folder}/{name}/shop/wsgipool.toml") == PROCESSES


def environment(home: Path) -> Path:
    """Make an environment with a copy of the installed package and with the other packages; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (packages,) = home.glob("lib/python3*/site-packages")
    shutil.copytree(PACKAGE, packages / PACKAGE.name)
    (packages / "others.pth").write_text(f"{PACKAGE.parent}\n")
    return home / "bin" / "python"


def test_the_name_of_a_folder_may_have_letters_of_any_language(folder: Path) -> None:
    sites = Sites(folder, "event")
    sites.add("shop", folder="stra\u00dfe")

    sites.join("shop")
    with sites.running():
        sites.wait_for_pools("shop")

        assert sites.visit("shop").pools == ["shop"]


def test_a_path_that_cannot_be_quoted_concerns_its_own_site_only(folder: Path) -> None:
    sites = two_sites(folder, "event")
    file = sites.add("odd", folder='a"b')
    file.write_text(file.read_text().replace('a"b', 'a\\"b'))

    refusal = sites.refusal("--site", "odd.example")
    sites.join("one", "two")

    assert f"{folder}/a\"b/app.wsgi has characters that httpd's configuration cannot contain; rename" in refusal
    assert "WSGIImportScript" not in file.read_text()


def test_a_preload_script_of_another_installation_is_named(folder: Path) -> None:
    sites = two_sites(folder, "event")
    sites.join("one")
    file = sites.apache.confdir / "sites-available" / "one.conf"
    file.write_text(file.read_text().replace(f"{PACKAGE}/handlers", "/opt/old/wsgipool/handlers"))

    printed = sites.apache.install()

    assert f"write {PACKAGE}/handlers/preload.py instead of /opt/old/wsgipool/handlers/preload.py" in printed


def test_the_next_steps_are_those_that_are_left(folder: Path) -> None:
    sites = two_sites(folder, "daemon")

    printed = sites.join("one")

    assert printed.splitlines()[-1].startswith("now `")
    assert printed.endswith("wsgipool apache reload`\n")
    assert "a2enconf" not in printed
