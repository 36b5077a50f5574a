"""README.md and all pages of docs/ follow the conventions, and their blocks run: see conftest.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs.blocks import ROOT, faults, has_debian_blocks, name_of, pages, parse, script_of
from wsgipool.demo.mariadb import MariaDB

PAGES = [pytest.param(page, id=name_of(page)) for page in pages()]
WITH_BLOCKS = [case for case, page in zip(PAGES, pages(), strict=True) if list(parse(page))]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_says_its_language(page: Path) -> None:
    assert faults(page) == []


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_the_blocks_of_a_page_run(page: Path, page_server: MariaDB, settings_of_the_pages: Path, scratch: Path) -> None:
    outcome = run(page, scratch, page_server.port, settings_of_the_pages)

    assert outcome.returncode == 0, outcome.stdout


def run(page: Path, scratch: Path, port: int, settings: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH")))),
        "WSGIPOOL_CONFIG": str(settings),
        "ORDERS_PASSWORD": "secret",
    }
    return subprocess.run(
        [sys.executable, "-m", "docs.run", str(page), str(scratch), str(port)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


# --- The runner itself ------------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.md"


BROKEN = {
    "an exception": ("```python\nassert 1 == 2\n```\n", "AssertionError"),
    "a command that fails": ("```sh\nfalse\ntrue\n```\n", "exit status 1"),
    "an unset variable": ("```sh\necho $unheard_of\n```\n", "unbound variable"),
    "an unknown setting": ('```toml\n[databases.orders]\nurl = "mysql://a@b/c"\nmaxsize = 3\n```\n', "not a setting"),
    "an unknown option": ('```toml\n[databases.orders]\nurl = "mysql://a@b/c?speed=3"\n```\n', "speed"),
    "an unknown directive": ("```apache\nWSGIPoolSize 3\n```\n", "WSGIPoolSize"),
    "a block inside IfModule of another MPM": (
        "```apache\n<IfModule mpm_worker_module>\nThreadsPerChildren 3\n</IfModule>\n```\n",
        "ThreadsPerChildren",
    ),
    "wrong SQL": ("```sql\nSELEC 1;\n```\n", "1064"),
    "an unknown keyword of haproxy": ("```haproxy\nlisten a\n    speed 3\n```\n", "speed"),
    "wrong syntax in a block for Debian": ("% debian\n```sh\nif\n```\n", "syntax error"),
    "a false assertion out of sight": ("% invisible-code-block: python\n% assert False\n\ntext\n", "AssertionError"),
    "one out of sight in HTML": ("<!--- invisible-code-block: sh\nfalse\n--->\n", "exit status 1"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_block_fails_and_its_line_is_named(
    what: str, page: Path, tmp_path: Path, page_server: MariaDB, settings_of_the_pages: Path
) -> None:
    text, expected = BROKEN[what]
    page.write_text(f"# Title\n\n{text}")

    outcome = run(page, tmp_path, page_server.port, settings_of_the_pages)

    assert outcome.returncode != 0
    assert expected in outcome.stdout
    assert "line 3" in outcome.stdout or "line 4" in outcome.stdout


WHOLE = """
# Title

% file: greeting.py
```python
greeting = "hello"
```

- In a list:

  ```python
  assert greeting == "hello"
  ```

```sh
grep hello greeting.py
test "$(command -v wsgipool)" = "$(dirname "$(command -v python)")/wsgipool"
```

```toml
runtime_dir = "/run/wsgipool"

[budget]
connections = 90
```

```toml
[databases.orders]
url = "mysql://shop@db.example.com/orders?ssl_ca=/etc/ssl/ca.pem"
password_file = "/etc/wsgipool.orders.password"

[databases.archive]
url = "mysql://shop@db.example.com/orders"
password_env = "ARCHIVE_PASSWORD"
```

```apache
Define WSGIPOOL_SIZING
Define WSGIPOOL_THREADS 8
```

```apache
<VirtualHost *:80>
    WSGIScriptAlias / /srv/shop/app.wsgi
    WSGIImportScript ${WSGIPOOL_HOME}/handlers/preload.py process-group=%{GLOBAL} application-group=%{GLOBAL}
</VirtualHost>
```

```sql
CREATE TABLE books (id INT PRIMARY KEY);
INSERT INTO books VALUES (7);
```

```python
import pymysql
import wsgipool

with pymysql.connect(host="db.example.com", user="shop", password="secret", database="orders") as conn:
    with conn.cursor() as cursor:
        cursor.execute("SELECT id FROM books")
        assert cursor.fetchall() == ((7,),)
with wsgipool.connection("orders") as conn, conn.cursor() as cursor:
    cursor.execute("SELECT id FROM books")
    assert cursor.fetchall() == ((7,),)
```

% debian
```sh
apt-get install apache2
```

```text
output
```
"""


def test_each_kind_of_block_runs(page: Path, tmp_path: Path, page_server: MariaDB, settings_of_the_pages: Path) -> None:
    page.write_text(WHOLE)

    outcome = run(page, tmp_path, page_server.port, settings_of_the_pages)

    assert outcome.returncode == 0, outcome.stdout
    assert faults(page) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```\nnone\n```\n", "no language"),
        ("```bash\ntrue\n```\n", "bash"),
        ("```{code-block} python\n1\n```\n", "{code-block}"),
        ("    indented\n", "an indented block"),
        ("% invisible-code-block: toml\n% a = 1\n\n", "toml"),
    ],
)
def test_a_block_that_would_not_be_tested_is_a_fault(page: Path, text: str, fault: str) -> None:
    page.write_text(f"# Title\n\n{text}")

    assert [each for each in faults(page) if each.startswith("3: ") and fault in each]


def test_a_page_as_a_script_writes_its_files_and_has_its_commands_in_order(page: Path) -> None:
    page.write_text(WHOLE)

    script = script_of(page)

    assert has_debian_blocks(page)
    assert script.index("cat >greeting.py") < script.index("grep hello") < script.index("apt-get install apache2")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert len(list(parse(page))) == 11
