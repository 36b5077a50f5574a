# Run Django's own suite for its newest release, which needs Python 3.12, on MariaDB and SQLite. If a test passes with
# Django's backend and fails with that of wsgipool, this build fails.
# It is a separate file, since Docker's older builder builds all targets of a file before the chosen one.

ARG BASE=debian:trixie-slim
FROM ${BASE}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/django/bin:$PATH
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        default-mysql-client mariadb-server-core python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /wsgipool
COPY pyproject.toml README.md LICENSE ./
RUN python3 -m venv /opt/django \
    && pip install 'pip>=25.1' hatchling \
    && pip install --group test $(python3 -c 'import tomllib; \
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"])')
COPY apache apache
COPY src src
RUN pip install --no-deps --no-build-isolation .
COPY tests tests
RUN PYTHONPATH=tests python3 -m compat django-6.1-pymysql django-6.1-sqlite
