"""The configuration of an httpd as httpd itself resolves it, as a list of directives; what they mean is not known here.

`-t -D DUMP_CONFIG` is mod_info's: Include, Define, IfModule, IfDefine and Macro are done with, each directive has its
file and line, and nothing of the server is started. mod_info need not be enabled, it is loaded for this one run.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsgipool.errors import Error

_PROGRAMS = ("apache2ctl", "httpd", "apache2", "apachectl")
"""In this order: Debian's apache2 needs the environment that its apache2ctl reads from /etc/apache2/envvars; elsewhere
apachectl may pass on no options."""

_MODULE_FOLDERS = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
    "/usr/lib64/apache2",
    "/usr/lib/apache2",
    "/usr/local/apache2/modules",
)

_TIMEOUT = 60.0


class ConfigurationError(Error):
    """httpd's configuration cannot be read."""


@dataclass(frozen=True)
class Section:
    """A <VirtualHost>, <Directory>, <Location> or the like around a directive."""

    name: str
    arguments: tuple[str, ...]
    number: int
    """Its place among all sections: two <VirtualHost *:80> are not the same."""


@dataclass(frozen=True)
class Directive:
    name: str
    text: str
    """What stands behind the name, as it was written."""
    sections: tuple[Section, ...]
    """Around it, the outermost first."""
    file: str
    line: int

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(words(self.text))

    @property
    def origin(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Dump:
    program: str
    directives: Sequence[Directive]
    modules: Mapping[str, Path | None]
    """By name, without "_module"; the file of one that was loaded from a file."""
    defines: Mapping[str, str]
    user: str
    """That httpd's children and, unless they name another, daemon processes run as, if root starts it."""
    pid_file: Path | None
    warnings: Sequence[str]
    """What httpd has to say against a configuration that it accepts."""
    group: str | None = None
    """That they have, if root starts it; None is the user's own."""

    def named(self, *names: str) -> list[Directive]:
        """Return the directives with one of these names, in the order in which httpd reads them."""
        wanted = {name.lower() for name in names}
        return [directive for directive in self.directives if directive.name.lower() in wanted]


def read(program: str | None = None, options: Sequence[str] = ()) -> Dump:
    """Return the configuration that `program` with these options would run.

    `program` is by default Debian's apache2ctl, or httpd; `options` are httpd's, such as -f FILE, -d FOLDER, -D NAME.
    Raises ConfigurationError with httpd's own words where it does not accept its configuration.
    """
    path = find_program(program)
    # At this level mod_so tells the file of each module.
    server = _ask([path, *options, "-t", "-e", "debug", "-D", "DUMP_MODULES", "-D", "DUMP_RUN_CFG"])
    load_info = []
    if not re.search(r"^ info_module ", server.stdout, re.M):
        load_info = ["-C", f'LoadModule info_module "{_mod_info(path)}"']
    configuration = _ask([path, *options, *load_info, "-t", "-D", "DUMP_CONFIG"])
    return parse(configuration.stdout, server.stdout, server.stderr, path)


def find_program(program: str | None = None) -> str:
    """Return the path of httpd, or of the script that runs it. Raises ConfigurationError."""
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin:/usr/local/apache2/bin"
    for name in [program] if program else _PROGRAMS:
        path = shutil.which(name, path=places)
        if path:
            return path
    raise ConfigurationError(
        f"{program or 'no ' + ', '.join(_PROGRAMS[:-1]) + ' or ' + _PROGRAMS[-1]} is "
        f"{'not ' if program else ''}here; name it by --httpd"
    )


def parse(configuration: str, server: str, messages: str = "", program: str = "httpd") -> Dump:
    """Return what httpd printed for DUMP_CONFIG, for DUMP_MODULES with DUMP_RUN_CFG, and of messages meanwhile."""
    defines = (found.partition("=") for found in re.findall(r"^Define: (.+)$", server, re.M))
    modules = re.findall(r"^ (\w+)_module \((?:static|shared)\)$", server, re.M)
    files = dict(re.findall(r"AH01575: loaded module (\w+)_module from (.+)$", messages, re.M))
    user = re.search(r'^User: name="(.*)" id=\d+( not_used)?$', server, re.M)
    group = re.search(r'^Group: name="(.*)" id=\d+( not_used)?$', server, re.M)
    pid_file = re.search(r'^PidFile: "(.+)"$', server, re.M)
    return Dump(
        program=program,
        directives=list(_directives(configuration)),
        modules={name: Path(files[name]) if name in files else None for name in modules},
        defines={name: value for name, _, value in defines},
        # Who is not root is told as well what is configured. #-1 is nothing: then root could not run it, and another
        # user's httpd stays who it is.
        user=user[1] if user and not (user[2] and user[1] == "#-1") else pwd.getpwuid(os.geteuid()).pw_name,
        pid_file=Path(pid_file[1]) if pid_file else None,
        warnings=re.findall(r"^(AH\d+: WARNING: .+)$", messages, re.M),
        group=group[1] if group and not group[2] and group[1] != "#-1" else None,
    )


def words(text: str) -> Iterator[str]:
    """Yield the arguments of a directive as httpd takes them apart.

    httpd's ap_getword_conf: words between blanks; in single or double quotes blanks count, and a backslash before the
    quote or another backslash. Unlike in a shell a quote within a word is nothing special.
    """
    for match in re.finditer(r""""((?:\\.|[^"\\])*)"?|'((?:\\.|[^'\\])*)'?|(\S+)""", text):
        double, single, plain = match.groups()
        if plain is not None:
            yield plain.replace("\\\\", "\\")
        elif double is not None:
            yield re.sub(r'\\([\\"])', r"\1", double)
        else:
            yield re.sub(r"\\([\\'])", r"\1", single)


def options(text: str) -> dict[str, str]:
    """Return the name=value arguments of a mod_wsgi directive, whose values may be in quotes."""
    pairs = re.findall(r"""(?:^|\s)([\w-]+)=("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\S*)""", text)
    return {name: next(words(value), "") for name, value in pairs}


def _directives(text: str) -> Iterator[Directive]:
    file, line = "", 0
    sections: list[Section] = []
    count = 0
    for raw in text.splitlines():
        entry = raw.strip()
        if match := re.fullmatch(r"# In file: (.*)", entry):
            file = match[1]
        elif match := re.fullmatch(r"# *(\d+):", entry):
            line = int(match[1])
        elif entry.startswith("</"):
            sections.pop()
        elif match := re.fullmatch(r"<(\w+)\s*(.*?)>", entry):
            count += 1
            sections.append(Section(match[1], tuple(words(match[2])), count))
        elif entry:
            name, *rest = entry.split(maxsplit=1)
            yield Directive(name, rest[0] if rest else "", tuple(sections), file, line)


def _mod_info(program: str) -> Path:
    root = re.search(r'HTTPD_ROOT="(.*)"', _run([program, "-V"]).stdout)
    folders = [Path(root[1]) / "modules"] if root else []
    folders += [Path(program).resolve().parents[1] / "modules", *map(Path, _MODULE_FOLDERS)]
    for folder in folders:
        if (folder / "mod_info.so").is_file():
            return folder / "mod_info.so"
    raise ConfigurationError(
        f"{program} prints its configuration by mod_info, and there is no mod_info.so in "
        f"{', '.join(map(str, dict.fromkeys(folders)))}; load it in the configuration (LoadModule info_module ...)"
    )


def _ask(command: list[str]) -> subprocess.CompletedProcess[str]:
    outcome = _run(command)
    if outcome.returncode != 0:
        raise ConfigurationError(f"{command[0]} does not accept its configuration:\n{_complaint(outcome)}")
    return outcome


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - the administrator's own httpd
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{command[0]} could not be run: {error}") from None


def _complaint(outcome: subprocess.CompletedProcess[str]) -> str:
    # AH00558 is about the name of the host, which has nothing to do with it and which everybody sees; we asked for what
    # mod_so says.
    lines = [line for line in outcome.stderr.splitlines() if line.strip() and not re.search("AH00558|:debug]", line)]
    return "\n".join(f"  {line}" for line in lines) or f"  exit status {outcome.returncode}"
