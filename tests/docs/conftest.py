"""The blocks of code in README.md and docs/**/*.md run here. This is what an author of a page has to know.

The word after the fence says what becomes of a block:

| word | |
|---|---|
| `python` | it runs; all blocks of a page share one namespace, in order, in a process of the page's own |
| `sh` | `bash -eu`, in the page's scratch folder, the virtual environment first on PATH |
| `toml` | a wsgipool.toml: wsgipool reads it, and makes the driver of each database |
| `apache` | `httpd -t` accepts it, under prefork, worker and event, beside wsgipool.conf; `Define`s come before that |
| `sql` | MariaDB runs it, in the database `orders`, as an administrator |
| `haproxy` | `haproxy -c` accepts it |
| `text` | output of a command; nothing is done with it. Never for what readers type |

A page with another word, with none, with an indented block or with `{code-block}` fails: nothing may only look tested.

**A block is preceded by what readers need not see**, in comments (in README.md, which GitHub shows, `<!--- … --->`):

    % invisible-code-block: python
    % with wsgipool.connection("orders") as conn:
    %     conn.cursor().execute("CREATE TABLE books (id INT PRIMARY KEY)")

    % invisible-code-block: sh
    % grep Listening output

`python` and `sh` are possible there. It is also the place for assertions on what a visible block has done.

    % file: app.wsgi         The next block is written to this file, too: sh blocks find it in their folder. A file with
                             an absolute path is written in containers only.
    % background: URL        The next sh block, one command, is started and goes on to the page's end. It has to answer
                             at URL, with any status.
    % debian                 The next sh block needs a Debian server and root: apt, a2enconf, systemctl. Here only its
                             syntax is checked. tests/docker/test_pages.py runs the page in a container of Debian: all
                             sh blocks in order, with all files. How-to pages go on from the site of start.md.
    % docker, % redhat, % systemd    The same, but no test runs the block: only its syntax is checked.

**What a page finds.** The databases `orders`, `archive` and `shop`, in the wsgipool.toml that WSGIPOOL_CONFIG names.
They are empty when the page begins. Their server is a MariaDB of these tests; in `python` blocks `db` and every host
below `example.com` is that server, with the user `shop` and the password `secret`, also in the variable
ORDERS_PASSWORD. In `toml` and `apache` blocks files need not exist: there are stand-ins for a password file, for
`ssl_ca` and for an included wsgipool.conf. A `toml` block without databases is read with one added.

One page: `make test ARGS="tests/docs -k how-to/flask"`. A failure names the page and the line.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsgipool.demo.mariadb import MariaDB

DATABASES = ("orders", "archive", "shop")


@pytest.fixture(scope="session")
def server_of_the_pages(servers_folder: Path) -> Iterator[MariaDB]:
    """A MariaDB with the user `shop`, whose password is `secret`."""
    folder = servers_folder / "mariadb-of-the-pages"
    folder.mkdir()
    with MariaDB(folder, {"max_connections": 100, "loose_ssl": 0, "innodb_fast_shutdown": 2}) as server:
        server.start()
        with server.admin() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE USER shop IDENTIFIED BY 'secret'")
            cursor.execute("GRANT ALL ON *.* TO shop")
        yield server


@pytest.fixture
def page_server(server_of_the_pages: MariaDB) -> MariaDB:
    """That server, with empty databases."""
    with server_of_the_pages.admin() as connection, connection.cursor() as cursor:
        for name in DATABASES:
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            cursor.execute(f"CREATE DATABASE {name}")
    return server_of_the_pages


@pytest.fixture
def scratch(servers_folder: Path) -> Path:
    """The folder of a page, which Apache's user can read: pages run `wsgipool serve`."""
    folder = Path(tempfile.mkdtemp(prefix="page-", dir=servers_folder))
    folder.chmod(0o755)
    return folder


@pytest.fixture
def settings_of_the_pages(page_server: MariaDB, servers_folder: Path) -> Path:
    """A wsgipool.toml of those databases."""
    path = servers_folder / "settings-of-the-pages.toml"
    place = f"127.0.0.1:{page_server.port}"
    path.write_text("".join(f'[databases.{name}]\nurl = "mysql://shop:secret@{place}/{name}"\n' for name in DATABASES))
    return path
