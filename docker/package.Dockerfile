# Build wheel and sdist and try them with the Python of a Debian release. If one of them fails, this build fails.
# It is a separate file, since Docker's older builder builds all targets of a file before the chosen one.

ARG BASE=debian:trixie-slim
FROM ${BASE}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHON=/opt/package/bin/python
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /wsgipool
COPY pyproject.toml ./
RUN python3 -m venv /opt/package && $PYTHON -m pip install 'pip>=25.1' && $PYTHON -m pip install --group package
COPY . .
RUN scripts/package /opt/dist
