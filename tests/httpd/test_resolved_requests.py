"""Sections, aliases and handlers that lead requests to process groups and interpreters: as httpd resolves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from httpd.interpreters import HTTPD, Site, differences
from wsgipool.httpd import configuration


@dataclass(frozen=True)
class Case:
    """A configuration, and requests that reach all its interpreters."""

    text: str
    urls: tuple[str, ...]
    scripts: tuple[str, ...]
    decided_by_request: bool = False
    """Whether other requests could lead elsewhere: then the groups that ran are among the known ones, with a note."""


PRELUDE = """
WSGIDaemonProcess a processes=2 threads=5
WSGIDaemonProcess b processes=3 threads=7
<Directory ${FOLDER}>
    Require all granted
</Directory>
"""

# --- a script of a user's folder, and sections that may hold it ------------------------------------------------------

SCRIPT = "home/ann/wsgi/app.wsgi"
ALIAS = "WSGIScriptAlias /ann ${FOLDER}/" + SCRIPT


def section(kind: str, argument: str, alias: str = ALIAS, *, decided_by_request: bool = False) -> Case:
    """Return a case whose groups stand in one section."""
    groups = "WSGIProcessGroup a\nWSGIApplicationGroup %{GLOBAL}"
    text = f"{alias}\n<{kind} {argument}>\n{groups}\n</{kind.split()[0]}>"
    return Case(text, ("/ann", "/ann/x"), (SCRIPT,), decided_by_request)


def folders(pattern: str) -> Case:
    """Return a case whose groups are those of the folders of a pattern."""
    return section("DirectoryMatch", f'"{pattern}"')


SECTIONS = {
    "folder with a star": section("Directory", "${FOLDER}/home/*/wsgi"),
    "folder above, with a star": section("Directory", "${FOLDER}/h*/ann"),
    "folder with a question mark": section("Directory", '"${FOLDER}/home/a?n"'),
    "folder with a set": section("Directory", '"${FOLDER}/home/[a-c]nn"'),
    "folder with a slash at its end": section("Directory", "${FOLDER}/home/ann/"),
    "folder of another name": section("Directory", "${FOLDER}/home/an"),
    "two slashes in the alias": section("Directory", "${FOLDER}/home/ann", ALIAS.replace("home/", "home//")),
    "files with a star": section("Files", '"*.wsgi"'),
    "files with another case": section("Files", "APP.wsgi"),
    "files by a pattern": section("FilesMatch", r'"\.wsgi$"'),
    "location with a star": section("Location", '"/an*"', decided_by_request=True),
    "location below, with a star": section("Location", '"/ann/*"', decided_by_request=True),
    "location with a slash at its end": section("Location", "/ann/"),
    "location that is a part of the name": section("Location", "/an"),
    "location by a pattern": section("LocationMatch", '"^/ann"'),
    "folder by a named pattern": folders("^${FOLDER}/home/(?<site>[^/]+)/wsgi"),
    "folder by a pattern named as in Python": folders("^${FOLDER}/home/(?P<site>[^/]+)/wsgi"),
    "folder by a class of POSIX": folders("^${FOLDER}/home/[[:alnum:]]+/wsgi"),
    "folder by a pattern that ends without a slash": folders(r"^${FOLDER}/home/\w+/wsgi$"),
    "folder by a pattern that ends with a slash": folders("^${FOLDER}/home/ann/wsgi/$"),
    "folder by a pattern of any case": folders("(?i)/HOME/"),
    "folder by a pattern that forgets its start": folders(r"^${FOLDER}/home/\K"),
    "folder by a set without blanks": folders(r"^${FOLDER}/home/[^\h]+/"),
    "folder by a possessive pattern": folders("^${FOLDER}/home/[a-z]++/"),
    "folder by alternatives": folders("^${FOLDER}/home/(ann|bob)/wsgi"),
    "folder by a pattern after a tilde": section("Directory ~", '"^${FOLDER}/home/.*/wsgi"'),
    "folder by a pattern without quotes": section("DirectoryMatch", "^${FOLDER}/home/ann"),
    "files in a folder": Case(
        """
        WSGIScriptAlias /ann ${FOLDER}/home/ann/wsgi/app.wsgi
        <Directory ${FOLDER}/home>
            <Files ap?.wsgi>
                WSGIProcessGroup a
                WSGIApplicationGroup %{GLOBAL}
            </Files>
        </Directory>
        """,
        urls=("/ann",),
        scripts=("home/ann/wsgi/app.wsgi",),
    ),
    "folder by a pattern in a virtual host": Case(
        """
        <VirtualHost *:${PORT}>
            WSGIScriptAlias /ann ${FOLDER}/home/ann/wsgi/app.wsgi
            <DirectoryMatch "^${FOLDER}/home/(?<site>[^/]+)/">
                WSGIProcessGroup a
                WSGIApplicationGroup %{GLOBAL}
            </DirectoryMatch>
        </VirtualHost>
        """,
        urls=("/ann",),
        scripts=("home/ann/wsgi/app.wsgi",),
    ),
}

# --- what an alias or a handler leads to -----------------------------------------------------------------------------

TARGETS = {
    "alias with a path behind the script": Case(
        """
        WSGIScriptAlias /shop ${FOLDER}/shop/site.wsgi/path
        <Files site.wsgi>
            WSGIProcessGroup a
            WSGIApplicationGroup %{GLOBAL}
        </Files>
        """,
        urls=("/shop",),
        scripts=("shop/site.wsgi",),
    ),
    "alias of a folder": Case(
        """
        WSGIScriptAlias /w/ ${FOLDER}/w/
        WSGIApplicationGroup %{GLOBAL}
        <Files site.wsgi>
            WSGIProcessGroup a
        </Files>
        <Directory ${FOLDER}/w>
            WSGIProcessGroup b
        </Directory>
        """,
        urls=("/w/site.wsgi", "/w/other.wsgi"),
        scripts=("w/site.wsgi", "w/other.wsgi"),
    ),
    "alias of a folder without a slash": Case(
        """
        WSGIScriptAlias /w ${FOLDER}/w
        <Directory ${FOLDER}/w>
            WSGIProcessGroup a
        </Directory>
        """,
        urls=("/w/site.wsgi", "/w/other.wsgi"),
        scripts=("w/site.wsgi", "w/other.wsgi"),
        decided_by_request=True,
    ),
    "alias by a pattern, many scripts": Case(
        """
        WSGIScriptAliasMatch ^/m/([a-z]+) ${FOLDER}/m/$1.wsgi
        <Directory ${FOLDER}/m>
            WSGIProcessGroup a
        </Directory>
        """,
        urls=("/m/site", "/m/other"),
        scripts=("m/site.wsgi", "m/other.wsgi"),
        decided_by_request=True,
    ),
    "alias by a pattern, many folders": Case(
        """
        WSGIScriptAliasMatch ^/m/([a-z]+) ${FOLDER}/$1/app.wsgi
        <Directory ${FOLDER}/one>
            WSGIProcessGroup a
        </Directory>
        """,
        urls=("/m/one", "/m/two"),
        scripts=("one/app.wsgi", "two/app.wsgi"),
        decided_by_request=True,
    ),
    "handler of an extension": Case(
        """
        DocumentRoot ${FOLDER}/h
        <Directory ${FOLDER}/h>
            Options ExecCGI
            AddHandler wsgi-script .py
            WSGIProcessGroup a
        </Directory>
        """,
        urls=("/site.py", "/sub/other.py"),
        scripts=("h/site.py", "h/sub/other.py"),
        decided_by_request=True,
    ),
    "handler of an extension, capitals and no dot": Case(
        """
        DocumentRoot ${FOLDER}/h
        <Directory ${FOLDER}/h>
            Options ExecCGI
            AddHandler WSGI-Script py
            WSGIApplicationGroup %{GLOBAL}
        </Directory>
        """,
        urls=("/a.py",),
        scripts=("h/a.py",),
    ),
    "handler of an extension, groups of folders and files": Case(
        """
        DocumentRoot ${FOLDER}/h
        <Directory ${FOLDER}/h>
            Options ExecCGI
            AddHandler wsgi-script .py
            WSGIApplicationGroup %{GLOBAL}
        </Directory>
        <Directory ${FOLDER}/h/sub>
            WSGIProcessGroup a
        </Directory>
        <Files x.py>
            WSGIProcessGroup b
        </Files>
        """,
        urls=("/a.py", "/sub/b.py", "/x.py"),
        scripts=("h/a.py", "h/sub/b.py", "h/x.py"),
    ),
    "handler of files by a pattern": Case(
        r"""
        DocumentRoot ${FOLDER}/h
        <FilesMatch "\.py$">
            Options ExecCGI
            SetHandler wsgi-script
            WSGIProcessGroup a
            WSGIApplicationGroup %{GLOBAL}
        </FilesMatch>
        """,
        urls=("/a.py",),
        scripts=("h/a.py",),
    ),
    "handler of a media type": Case(
        """
        DocumentRoot ${FOLDER}/h
        <Directory ${FOLDER}/h>
            Options ExecCGI
            AddType application/x-httpd-wsgi .py
            WSGIApplicationGroup %{GLOBAL}
        </Directory>
        """,
        urls=("/a.py",),
        scripts=("h/a.py",),
    ),
    "handler of a location": Case(
        """
        Alias /x ${FOLDER}/x/app.py
        <Location /x>
            SetHandler wsgi-script
            Options ExecCGI
            WSGIProcessGroup a
        </Location>
        """,
        urls=("/x",),
        scripts=("x/app.py",),
    ),
    "handler of a rewrite rule": Case(
        """
        RewriteEngine On
        RewriteRule ^/r$ ${FOLDER}/h/a.py [H=wsgi-script]
        <Directory ${FOLDER}/h>
            Options ExecCGI
        </Directory>
        """,
        urls=("/r",),
        scripts=("h/a.py",),
        decided_by_request=True,
    ),
    "scripts of two folders, and an alias": Case(
        """
        WSGIProcessGroup a
        WSGIScriptAlias /main ${FOLDER}/share/main.py
        Alias /texts ${FOLDER}/texts
        <Location /main>
            WSGIProcessGroup b
            WSGIApplicationGroup main
        </Location>
        <Directory ${FOLDER}/texts>
            Options ExecCGI
            AddHandler wsgi-script .py
        </Directory>
        """,
        urls=("/main", "/texts/a.py", "/texts/b.py"),
        scripts=("share/main.py", "texts/a.py", "texts/b.py"),
        decided_by_request=True,
    ),
    "name of the host is the name of the folder": Case(
        """
        WSGIProcessGroup a
        WSGIApplicationGroup %{SERVER}
        UseCanonicalName Off
        VirtualDocumentRoot ${FOLDER}/hosts/%0
        <Directory ${FOLDER}/hosts>
            Options ExecCGI
            AddHandler wsgi-script .py
        </Directory>
        """,
        urls=("http://one.example.net/index.py", "http://two.example.net/index.py"),
        scripts=("hosts/one.example.net/index.py", "hosts/two.example.net/index.py"),
        decided_by_request=True,
    ),
}

# --- sections within sections, and their order -----------------------------------------------------------------------

TWO = "WSGIScriptAlias /a ${FOLDER}/s/a.wsgi\nWSGIScriptAlias /b ${FOLDER}/s/b.wsgi\n"


def two(text: str, *more: str, decided_by_request: bool = False) -> Case:
    """Return a case of two scripts of one folder."""
    return Case(TWO + text, ("/a", "/b", *more), ("s/a.wsgi", "s/b.wsgi"), decided_by_request)


MERGED = {
    "files in a folder, two groups": two(
        """
        <Directory ${FOLDER}/s>
            <Files a.wsgi>
                WSGIProcessGroup a
                WSGIApplicationGroup %{GLOBAL}
            </Files>
            <Files b.wsgi>
                WSGIProcessGroup b
                WSGIApplicationGroup %{GLOBAL}
            </Files>
        </Directory>
        """,
    ),
    "files, two groups": two(
        """
        <Files a.wsgi>
            WSGIProcessGroup a
        </Files>
        <Files b.wsgi>
            WSGIProcessGroup b
        </Files>
        """,
    ),
    "files by patterns in a folder": two(
        """
        <Directory ${FOLDER}/s>
            <FilesMatch ^a>
                WSGIProcessGroup a
            </FilesMatch>
            <FilesMatch ^b>
                WSGIProcessGroup b
            </FilesMatch>
        </Directory>
        """,
    ),
    "expression in a folder": two(
        """
        <Directory ${FOLDER}/s>
            WSGIProcessGroup a
            <If "%{REQUEST_URI} =~ m#^/b#">
                WSGIProcessGroup b
            </If>
        </Directory>
        """,
        decided_by_request=True,
    ),
    "expression in a location": two(
        """
        WSGIProcessGroup a
        <Location /b>
            <If "%{REQUEST_METHOD} == 'GET'">
                WSGIProcessGroup b
            </If>
        </Location>
        """,
        decided_by_request=True,
    ),
    "expression and a pattern in a virtual host": Case(
        """
        <VirtualHost *:${PORT}>
            WSGIScriptAlias /a ${FOLDER}/s/a.wsgi
            WSGIScriptAlias /b ${FOLDER}/s/b.wsgi
            WSGIProcessGroup a
            WSGIApplicationGroup %{GLOBAL}
            <If "%{QUERY_STRING} =~ /beta=1/">
                WSGIProcessGroup b
            </If>
            <LocationMatch "^/a/(api|rpc)/">
                WSGIProcessGroup %{GLOBAL}
            </LocationMatch>
        </VirtualHost>
        """,
        urls=("/a", "/b?beta=1", "/a/api/1"),
        scripts=("s/a.wsgi", "s/b.wsgi"),
        decided_by_request=True,
    ),
    "methods in a folder": two(
        """
        WSGIProcessGroup a
        <Directory ${FOLDER}/s>
            <Limit GET>
                WSGIProcessGroup b
            </Limit>
        </Directory>
        """,
    ),
    "location after folder": two(
        """
        <Location /a>
            WSGIProcessGroup a
        </Location>
        <Directory ${FOLDER}/s>
            WSGIProcessGroup b
        </Directory>
        """,
    ),
    "names in lower case": Case(
        """
        wsgiscriptalias /low ${FOLDER}/low/app.wsgi process-group=a application-group=%{GLOBAL}
        documentroot ${FOLDER}/www
        <directory ${FOLDER}/www>
            options ExecCGI
            addhandler wsgi-script .py
            wsgiprocessgroup b
            wsgiapplicationgroup %{GLOBAL}
        </directory>
        """,
        urls=("/low", "/page.py"),
        scripts=("low/app.wsgi", "www/page.py"),
    ),
    "longer folder after shorter one": two(
        """
        <Directory ${FOLDER}/s>
            WSGIProcessGroup a
        </Directory>
        <Directory ${FOLDER}>
            WSGIProcessGroup b
        </Directory>
        """,
    ),
    "location below a mount point": two(
        """
        WSGIProcessGroup a
        <Location /b/reports>
            WSGIProcessGroup %{GLOBAL}
            WSGIApplicationGroup reports
        </Location>
        """,
        "/b/reports/2020",
    ),
}

# --- virtual hosts that inherit --------------------------------------------------------------------------------------


def hosts(text: str, *inner: str) -> Case:
    """Return a case of an alias of the main server and of virtual hosts that have nothing else than `inner`."""
    names = [f"{letter}.example.org" for letter in "abc"[: len(inner)]]
    blocks = (
        f"<VirtualHost *:${{PORT}}>\nServerName {name}\n{directives}\n</VirtualHost>\n"
        for name, directives in zip(names, inner, strict=True)
    )
    text = "WSGIScriptAlias / ${FOLDER}/app.wsgi\n" + text + "\n" + "".join(blocks)
    # Port OTHER_PORT has no virtual host, so it reaches the main server.
    urls = (*(f"http://{name}/" for name in names), "http://www.example.org:${OTHER_PORT}/")
    return Case(text, urls, ("app.wsgi",))


INHERITED = {
    "process groups of hosts": hosts("WSGIApplicationGroup %{GLOBAL}", "WSGIProcessGroup a", "WSGIProcessGroup b"),
    "three hosts without groups": hosts("", "", "", ""),
    "an interpreter for each server": hosts("WSGIApplicationGroup %{SERVER}", "", ""),
    "process group of a location of a host": hosts(
        "WSGIApplicationGroup %{GLOBAL}\nWSGIProcessGroup a", "", "<Location />\nWSGIProcessGroup b\n</Location>"
    ),
    "application groups of hosts": hosts("WSGIProcessGroup a", "WSGIApplicationGroup one", "WSGIApplicationGroup two"),
    "handler of the main server, process groups of hosts": Case(
        """
        WSGIApplicationGroup %{GLOBAL}
        Alias /x ${FOLDER}/x/app.wsgi
        <Directory ${FOLDER}/x>
            Options ExecCGI
            AddHandler wsgi-script .wsgi
        </Directory>
        <VirtualHost *:${PORT}>
            ServerName a.example.org
            WSGIProcessGroup a
        </VirtualHost>
        <VirtualHost *:${PORT}>
            ServerName b.example.org
            WSGIProcessGroup b
        </VirtualHost>
        """,
        urls=("http://a.example.org/x", "http://b.example.org/x", "http://www.example.org:${OTHER_PORT}/x"),
        scripts=("x/app.wsgi",),
    ),
    "most specific folder, below several mount points": Case(
        """
        <VirtualHost *:${PORT}>
            WSGIScriptAlias /old/reports ${FOLDER}/old/reports/app.wsgi
            WSGIScriptAlias /old ${FOLDER}/old/app.wsgi
            WSGIScriptAlias / ${FOLDER}/new/app.wsgi
            <Directory ${FOLDER}>
                WSGIProcessGroup a
            </Directory>
            <Directory ${FOLDER}/old>
                WSGIProcessGroup b
            </Directory>
            <Location /old/reports>
                WSGIProcessGroup %{GLOBAL}
                WSGIApplicationGroup reports
            </Location>
        </VirtualHost>
        """,
        urls=("/", "/old", "/old/reports/2020"),
        scripts=("old/reports/app.wsgi", "old/app.wsgi", "new/app.wsgi"),
    ),
}

CASES = {**SECTIONS, **TARGETS, **MERGED, **INHERITED}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_groups_and_interpreters_are_those_that_answer(case: Case, folder: Path) -> None:
    site = Site(folder, PRELUDE + case.text + "\n", case.scripts)
    known = configuration.read(HTTPD, site.options)

    with site.running():
        answers = {url: site.get(url if "://" in url else f"http://www.example.org{url}") for url in case.urls}
        ran = site.groups()

    assert set(answers.values()) == set(case.scripts)
    assert differences(known, ran, decided_by_request=case.decided_by_request) == []
