"""httpd's configuration as a list of directives, as httpd itself resolves it; `configuration` interprets them.

`httpd -t -D DUMP_CONFIG` resolves Include, Define, IfModule, IfDefine and Macro. It prints each directive with its file
and line and starts no server. The option comes from mod_info, which is loaded for this run if it is not enabled.
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
"""In order of preference. Debian's apache2 needs the variables that apache2ctl reads from /etc/apache2/envvars;
elsewhere apachectl may not pass options on."""

_MODULE_FOLDERS = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
    "/usr/lib64/apache2",
    "/usr/lib/apache2",
    "/usr/local/apache2/modules",
)

_TIMEOUT = 60.0


class HttpdConfigError(Error):
    """httpd's configuration cannot be read, or runs no Python."""


@dataclass(frozen=True)
class Section:
    """A <VirtualHost>, <Directory>, <Location> or the like around a directive."""

    name: str
    text: str
    """The text after the name, as written."""
    number: int
    """The position among all sections, which distinguishes two <VirtualHost *:80>."""

    @property
    def kind(self) -> str:
        """The name in lower case: httpd does not tell cases apart."""
        return self.name.lower()

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments, without quotes."""
        return tuple(words(self.text))


@dataclass(frozen=True)
class Directive:
    """A directive with its place in the configuration."""

    name: str
    text: str
    """The text after the name, as written."""
    sections: tuple[Section, ...]
    """The sections around the directive, the outermost first."""
    file: str
    line: int

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments, without quotes."""
        return tuple(words(self.text))

    @property
    def path(self) -> Path | None:
        """The file; None for a directive of a macro or of the command line."""
        return Path(self.file) if self.file.startswith("/") else None

    @property
    def kind(self) -> str:
        """The name in lower case: httpd does not tell cases apart."""
        return self.name.lower()

    @property
    def origin(self) -> str:
        """The file and line of the directive."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Dump:
    """A resolved configuration."""

    program: str
    directives: Sequence[Directive]
    modules: Mapping[str, Path | None]
    """The files of the modules by name, without "_module"; None for a static module."""
    defines: Mapping[str, str]
    user: str
    """The user of httpd's children and, by default, of daemon processes, if root starts httpd."""
    pid_file: Path | None
    warnings: Sequence[str]
    """httpd's warnings about a configuration that it accepts."""
    server_root: str = ""
    """The folder that relative paths belong to."""
    group: str | None = None
    """The group of these processes, if root starts httpd; None for the user's own group."""

    def named(self, *names: str) -> list[Directive]:
        """Return the directives with one of these names, in the order in which httpd reads them."""
        wanted = {name.lower() for name in names}
        return [directive for directive in self.directives if directive.kind in wanted]


def read(program: str | None = None, options: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Dump:
    """Return the configuration that `program` would run with these options.

    The default program is Debian's apache2ctl, or httpd. `options` are httpd's, such as -f FILE, -d FOLDER, -D NAME.
    `environment` replaces that of this process. Raises HttpdConfigError with httpd's message if httpd does not accept
    the configuration.
    """
    path = find_program(program)
    # At the level debug, mod_so prints the file of each module.
    server = ask(
        [path, *options, "-t", "-e", "debug", "-D", "DUMP_MODULES", "-D", "DUMP_RUN_CFG"], environment=environment
    )
    load_info = []
    if not re.search(r"^ info_module ", server.stdout, re.M):
        load_info = ["-C", f'LoadModule info_module "{module_file(path, "info")}"']
    configuration = ask([path, *options, *load_info, "-t", "-D", "DUMP_CONFIG"], environment=environment)
    return parse(configuration.stdout, server.stdout, server.stderr, path)


def find_program(program: str | None = None) -> str:
    """Return the path of httpd, or of the script that runs it. Raises HttpdConfigError."""
    # Debian installs servers in /usr/sbin, which is not on every user's PATH.
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin:/usr/local/apache2/bin"
    for name in [program] if program else _PROGRAMS:
        path = shutil.which(name, path=places)
        if path:
            return path
    raise HttpdConfigError(f"{program or ' or '.join(_PROGRAMS)} was not found; name httpd's program with --httpd")


def parse(configuration: str, server: str, messages: str = "", program: str = "httpd") -> Dump:
    """Parse httpd's output for DUMP_CONFIG, its output for DUMP_MODULES with DUMP_RUN_CFG, and its messages."""
    defines = (found.partition("=") for found in re.findall(r"^Define: (.+)$", server, re.M))
    modules = re.findall(r"^ (\w+)_module \((?:static|shared)\)$", server, re.M)
    files = dict(re.findall(r"AH01575: loaded module (\w+)_module from (.+)$", messages, re.M))
    user = re.search(r'^User: name="(.*)" id=\d+( not_used)?$', server, re.M)
    group = re.search(r'^Group: name="(.*)" id=\d+( not_used)?$', server, re.M)
    pid_file = re.search(r'^PidFile: "(.+)"$', server, re.M)
    server_root = re.search(r'^ServerRoot: "(.+)"$', server, re.M)
    return Dump(
        program=program,
        directives=list(_directives(configuration)),
        modules={name: Path(files[name]) if name in files else None for name in modules},
        defines={name: value for name, _, value in defines},
        # httpd prints the configured User to any user, but only root's httpd changes to it. #-1 means none is
        # configured.
        user=user[1] if user and not (user[2] and user[1] == "#-1") else pwd.getpwuid(os.geteuid()).pw_name,
        pid_file=Path(pid_file[1]) if pid_file else None,
        warnings=re.findall(r"^(AH\d+: WARNING: .+)$", messages, re.M),
        server_root=server_root[1] if server_root else "",
        group=group[1] if group and not group[2] and group[1] != "#-1" else None,
    )


def words(text: str) -> Iterator[str]:
    """Yield the arguments of a directive as httpd's ap_getword_conf splits them.

    Blanks separate words. Words in single or double quotes may contain blanks, and a backslash escapes the quote or
    another backslash. Unlike in a shell, a quote inside a word has no meaning.
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
    """Return the name=value arguments of a mod_wsgi directive; values may be in quotes."""
    pairs = re.findall(r"""(?:^|\s)([\w-]+)=("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\S*)""", text)
    return {name: next(words(value), "") for name, value in pairs}


def _directives(text: str) -> Iterator[Directive]:
    file, line = "", 0
    sections: list[Section] = []
    count = 0
    for raw in text.split("\n"):
        entry = raw.strip()
        if match := re.fullmatch(r"# In file: (.*)", entry):
            file = match[1]
        elif match := re.fullmatch(r"# *(\d+):", entry):
            line = int(match[1])
        elif entry.startswith("</"):
            sections.pop()
        elif match := re.fullmatch(r"<(\w+)\s*(.*?)>", entry):
            count += 1
            sections.append(Section(match[1], match[2], count))
        elif entry:
            name, *rest = entry.split(maxsplit=1)
            yield Directive(name, rest[0] if rest else "", tuple(sections), file, line)


def module_file(program: str, name: str) -> Path:
    """Return the file of a module of httpd that need not be enabled. Raises HttpdConfigError."""
    root = re.search(r'HTTPD_ROOT="(.*)"', _run([program, "-V"]).stdout)
    folders = [Path(root[1]) / "modules"] if root else []
    folders += [Path(program).resolve().parents[1] / "modules", *map(Path, _MODULE_FOLDERS)]
    for folder in folders:
        if (folder / f"mod_{name}.so").is_file():
            return folder / f"mod_{name}.so"
    raise HttpdConfigError(
        f"mod_{name} is needed to examine the configuration of {program}, but there is no mod_{name}.so in "
        f"{', '.join(map(str, dict.fromkeys(folders)))}; load it in the configuration (LoadModule {name}_module ...)"
    )


def ask(
    command: list[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run httpd with an option that only checks or prints. Raises HttpdConfigError if it refuses its configuration."""
    outcome = _run(command, environment, folder)
    if outcome.returncode != 0:
        raise HttpdConfigError(f"{command[0]} does not accept its configuration:\n{_complaint(outcome)}")
    return outcome


def _run(
    command: list[str], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - the administrator's own httpd
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_TIMEOUT,
            check=False,
            env=environment,
            cwd=folder,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HttpdConfigError(f"{command[0]} could not be run: {error}") from None


def _complaint(outcome: subprocess.CompletedProcess[str]) -> str:
    # AH00558 is the common warning about the host's name; the debug lines of mod_so were requested by `read`.
    lines = [line for line in outcome.stderr.splitlines() if line.strip() and not re.search("AH00558|:debug]", line)]
    return "\n".join(f"  {line}" for line in lines) or f"  exit status {outcome.returncode}"
