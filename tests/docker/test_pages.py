"""The commands of the pages that need a Debian server, in containers of Debian, as root.

README.md and the page Start begin on a bare system. The how-to pages go on from the site that Start has built.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from docs.blocks import ROOT, has_debian_blocks, name_of, pages, script_of
from httpd.containers import Compose, docker

IMAGE = "debian:trixie-slim"
"""Of the services in docker/compose.yaml: pulled, or made by docker/base-image."""

README, START = ROOT / "README.md", ROOT / "docs" / "start.md"
AFTER_START = [page for page in pages() if has_debian_blocks(page) and page not in (README, START)]

# The packages that most pages install are fetched once. procps has ps, which a Debian server has.
BARE = """
set -eux
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io
apt-get update -q
apt-get install -yq --no-install-recommends ca-certificates curl procps
apt-get install -yq --download-only apache2 libapache2-mod-wsgi-py3 python3-venv mariadb-server
# No systemd runs in a container.
cat >/usr/local/bin/systemctl <<'END-OF-FILE'
#!/bin/sh
action=$1
shift
for name; do service "${name%.service}" "$action"; done
END-OF-FILE
chmod 755 /usr/local/bin/systemctl
"""

STOP = "service apache2 stop\nservice mariadb stop\n"
RESUME = "service mariadb start\nservice apache2 start\n"


@pytest.fixture(scope="module")
def bare_image(compose: Compose) -> Iterator[str]:
    """An image of Debian with the sources in its working folder, and no server installed."""
    environment = "--env=DEBIAN_FRONTEND=noninteractive"
    container = docker("create", "--workdir=/wsgipool", environment, IMAGE, "bash", "-c", BARE).strip()
    with _removed_at_the_end(container):
        for source in ("pyproject.toml", "README.md", "LICENSE", "apache", "src"):
            docker("cp", ROOT / source, f"{container}:/wsgipool/")
        docker("start", "--attach", container)
        with _image_of(container, f"{compose.project}-bare") as name:
            yield name


@pytest.fixture(scope="module")
def site_of_start(compose: Compose, bare_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of a system on which the page Start was followed to its end."""
    script = script_of(START) + STOP
    with (
        _ran(bare_image, script, tmp_path_factory.mktemp("start")) as container,
        _image_of(container, f"{compose.project}-start") as name,
    ):
        yield name


def test_the_readme_works_on_a_bare_system(bare_image: str, tmp_path: Path) -> None:
    with _ran(bare_image, script_of(README), tmp_path):
        pass


@pytest.mark.parametrize("page", AFTER_START, ids=name_of)
def test_a_page_goes_on_from_the_site_that_start_builds(page: Path, site_of_start: str, tmp_path: Path) -> None:
    with _ran(site_of_start, RESUME + script_of(page), tmp_path):
        pass


@contextmanager
def _ran(image: str, script: str, folder: Path) -> Iterator[str]:
    """A container in which a script has run."""
    file = folder / "page.sh"
    file.write_text(script)
    container = docker("create", image, "bash", "/page.sh").strip()
    with _removed_at_the_end(container):
        docker("cp", file, f"{container}:/page.sh")
        outcome = subprocess.run(
            ["docker", "start", "--attach", container],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        assert outcome.returncode == 0, outcome.stdout
        yield container


@contextmanager
def _image_of(container: str, name: str) -> Iterator[str]:
    docker("commit", container, name)
    try:
        yield name
    finally:
        docker("rmi", "--force", name)


@contextmanager
def _removed_at_the_end(container: str) -> Iterator[None]:
    try:
        yield
    finally:
        docker("rm", "--force", "--volumes", container)
