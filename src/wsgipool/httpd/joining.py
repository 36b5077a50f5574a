"""The lines by which a site joins: one interpreter with a fixed name, which loads script and pools when it starts.

They stand in the site's own section, so they change nothing for other sites.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsgipool.httpd import dump, placement
from wsgipool.httpd.configuration import OPEN_GROUPS, PRELOAD, Configuration
from wsgipool.httpd.dump import Directive, Dump
from wsgipool.httpd.placement import EMBEDDED, Interpreter, Site

_GLOBAL = "%{GLOBAL}"


@dataclass(frozen=True)
class Joining:
    """A site, and the lines that it needs."""

    site: Site
    after: Directive
    """The directive below which the lines stand: the WSGIScriptAlias, or a WSGIDaemonProcess that comes later."""
    lines: Sequence[str]
    by_hand: str
    """Why no lines can be inserted, and what to do; "" if they can."""
    needs_python_home: bool
    """Whether Apache's own children must run the Python of wsgipool."""


def joinings(configuration: Dump, known: Configuration, package: Path, python_home: str) -> list[Joining]:
    """Return what each site needs. `python_home` is the virtual environment of `package`; "" if it has none."""
    sites = {_what_joins(site.directive): site for site in reversed(known.sites)}
    search = _Search(configuration, known, package, python_home)
    return [search.joining(site) for site in reversed(sites.values())]


def _what_joins(directive: Directive) -> tuple[object, ...]:
    """Return a key of what joins at once: a script at several paths of a section, the scripts of another directive."""
    if directive.kind == "wsgiscriptalias":
        return directive.sections, directive.arguments[1:]
    return directive.sections, directive.origin, directive.text


class _Search:
    """Finds the lines of one site after the other; the first site of an interpreter gets the lines that load pools."""

    def __init__(self, configuration: Dump, known: Configuration, package: Path, python_home: str) -> None:
        self._configuration = configuration
        self._known = known
        self._package = package
        self._python_home = python_home
        self._loading = set(known.preloaded)

    def joining(self, site: Site) -> Joining:
        """Return what a site needs."""
        if site.directive.kind != "wsgiscriptalias" and site.interpreters <= self._loading:
            return Joining(site, site.directive, [], "", needs_python_home=False)
        try:
            return self._by_hand(site) or self._lines(site)
        except ValueError as error:
            reason = f"{error} has characters that httpd's configuration cannot contain; rename the file or its folder"
            return _by_hand(site, reason)

    def _by_hand(self, site: Site) -> Joining | None:
        """Return why no lines can be inserted for a site; None if they can."""
        reason = (
            _unclear(site, self._configuration, self._known.daemons)
            or _ambiguous(site, self._known.sites)
            or _outdated(site, self._configuration, self._package)
            or self._misplaced(site)
        )
        return _by_hand(site, reason) if reason else None

    def _misplaced(self, site: Site) -> str:
        """Return why lines in the site's section would not be right; "" if they would."""
        interpreter = _only(site)
        after = self._after(site)
        if after.sections != site.directive.sections or after.file != site.directive.file:
            return f"move {after.name} {interpreter.group} ({after.origin}) before its section, and run this again"
        beside = self._beside(site)
        if beside and interpreter.application_group.startswith(OPEN_GROUPS):
            option = f"application-group={_slug(site, self._others(site))}"
            return (
                f"a line in its section would change {beside[0].script}, too; write {option} into its "
                f"{site.directive.name}, and run this again"
            )
        return ""

    def _lines(self, site: Site) -> Joining:
        interpreter = _only(site)
        group, name = interpreter.group, interpreter.application_group
        lines = [] if self._beside(site) else list(_groups(site, group, name, self._configuration))
        if name.startswith(OPEN_GROUPS):
            name = _name(site, self._others(site), group)
            lines.append(f"WSGIApplicationGroup {name}")
        if Interpreter(group, name) not in self._loading:
            options = f"process-group={quoted(group or _GLOBAL)} application-group={quoted(name)}"
            lines.append(f"WSGIImportScript {quoted(site.script)} {options}")
            lines.append(f"WSGIImportScript {quoted(self._package / PRELOAD)} {options}")
        has_python = _has_python(group, self._configuration, self._known.daemons)
        needs_home = bool(self._python_home) and bool(lines) and not has_python
        if needs_home and (reason := self._python_by_hand(site, group)):
            return _by_hand(site, reason)
        self._loading.add(Interpreter(group, name))
        return Joining(site, self._after(site), lines, "", needs_python_home=needs_home)

    def _python_by_hand(self, site: Site, group: str) -> str:
        """Return which Python the administrator has to name; "" if that of Apache's own children can be written."""
        option = f"python-home={quoted(self._python_home)}"
        if group != EMBEDDED:
            daemon = self._known.daemons[group]
            return f"add {option} to WSGIDaemonProcess {group} ({daemon.origin}), and run this again"
        others = self._others(site)
        if any(EMBEDDED in {each.group for each in other.interpreters} for other in others):
            own = _slug(site, others)
            return (
                "it shares Apache's own children with other sites, whose Python would change too; give it processes of "
                f"its own: write `WSGIDaemonProcess {own} processes=2 threads=8 {option}` before its <VirtualHost> and "
                f"`WSGIProcessGroup {own}` into it, and run this again"
            )
        return ""

    def _others(self, site: Site) -> list[Site]:
        """Return the sites of other scripts."""
        return [other for other in self._known.sites if other.script != site.script]

    def _beside(self, site: Site) -> list[Site]:
        """Return the other sites that lines in the site's section would change."""
        return [other for other in self._others(site) if _is_inside(other.directive, site.directive)]

    def _after(self, site: Site) -> Directive:
        """Return the later one of alias and process group: WSGIImportScript needs the group before it."""
        order = self._configuration.directives
        daemon = self._known.daemons.get(_only(site).group)
        return daemon if daemon is not None and order.index(daemon) > order.index(site.directive) else site.directive


def _only(site: Site) -> Interpreter:
    """Return the interpreter of a site that has one."""
    (interpreter,) = site.interpreters
    return interpreter


def _is_inside(directive: Directive, other: Directive) -> bool:
    """Return whether a directive stands in the section of another one, or in a section that inherits from it."""
    return directive.sections[: len(other.sections)] == other.sections


def _by_hand(site: Site, reason: str) -> Joining:
    return Joining(site, site.directive, [], reason, needs_python_home=False)


def _unclear(site: Site, configuration: Dump, daemons: Mapping[str, Directive]) -> str:
    if site.directive.kind != "wsgiscriptalias" or Path(site.directive.arguments[1]).is_dir():
        return (
            "no lines are known for a script that has no WSGIScriptAlias of its own; write one, or give it a fixed "
            "WSGIApplicationGroup and a WSGIImportScript by hand (docs/how-to/several-sites.md)"
        )
    groups = {interpreter.group for interpreter in site.interpreters}
    names = {interpreter.application_group for interpreter in site.interpreters}
    if unknown := sorted(groups - {EMBEDDED, *daemons}):
        return f"there is no WSGIDaemonProcess {unknown[0]}"
    if len(groups) > 1:
        return f"its requests run in several process groups: {', '.join(sorted(group or _GLOBAL for group in groups))}"
    option = dump.options(site.directive.text).get("application-group", "")
    if option.startswith(OPEN_GROUPS):
        return f"write a fixed name, such as application-group={_GLOBAL}, instead of application-group={option}"
    for each in configuration.named("WSGIApplicationGroup"):
        is_beside = each.sections == site.directive.sections and not option
        if is_beside and each.arguments[0].startswith(OPEN_GROUPS):
            return f"remove the line `{each.name} {each.text}` ({each.origin}), and run this again"
    if len(names) > 1:
        return f"its requests run in several application groups: {', '.join(sorted(names))}"
    return ""


def _outdated(site: Site, configuration: Dump, package: Path) -> str:
    for each in configuration.named("WSGIImportScript"):
        script = each.arguments[0]
        is_of_site = script.endswith(PRELOAD) and placement.of_options(each) in site.interpreters
        if is_of_site and Path(script).resolve() != (package / PRELOAD).resolve():
            return f"write {package / PRELOAD} instead of {script} ({each.origin}), the script of another installation"
    return ""


def _ambiguous(site: Site, sites: Sequence[Site]) -> str:
    place = site.directive.origin
    servers = sorted({other.server for other in sites if other.directive.origin == place})
    if len(servers) > 1:
        return f"its line {place} is that of {' and '.join(servers)}; write lines into each <VirtualHost> by hand"
    return ""


def _groups(site: Site, group: str, name: str, configuration: Dump) -> Iterator[str]:
    """Yield the directives that the options of the alias do not give to other scripts of the section.

    The status page runs in the process group of the section.
    """
    given = dump.options(site.directive.text)
    for directive, option, value in (
        ("WSGIProcessGroup", "process-group", group or _GLOBAL),
        ("WSGIApplicationGroup", "application-group", name),
    ):
        beside = [each for each in configuration.named(directive) if each.sections == site.directive.sections]
        if option in given and not beside:
            yield f"{directive} {quoted(value)}"


def _name(site: Site, others: Sequence[Site], group: str) -> str:
    """Return an application group: the main interpreter, unless another script runs in the same processes."""
    if any(group in {each.group for each in other.interpreters} for other in others):
        return _slug(site, others)
    return _GLOBAL


def _slug(site: Site, others: Sequence[Site]) -> str:
    """Return a name for a site, which no other script's site has."""
    slug = _joined_words(site.server, site.directive.arguments[0])
    taken = {_joined_words(other.server, other.directive.arguments[0]) for other in others}
    return _joined_words(slug, str(site.script)) if slug in taken else slug


def _joined_words(*texts: str) -> str:
    words = (re.sub(r"[^\w.-]+", "-", text).strip("-") for text in texts)
    return "-".join(filter(None, words))


def _has_python(group: str, configuration: Dump, daemons: Mapping[str, Directive]) -> bool:
    if configuration.named("WSGIPythonHome", "WSGIPythonPath"):
        return True
    options = dump.options(daemons[group].text) if group != EMBEDDED else {}
    return bool(options.keys() & {"python-home", "python-path"})


def quoted(value: Path | str) -> str:
    """Return a word of httpd's configuration, in quotes if needed. Raises ValueError if that is impossible."""
    text = str(value)
    # httpd cannot quote line ends, and resolves variables in quotes, too.
    if not text.isprintable() or any(each in text for each in ('"', "\\", "${")):
        raise ValueError(text)
    return f'"{text}"' if re.search(r"[\s']", text) or not text else text


def inserted(text: str, directive: Directive, lines: Sequence[str]) -> str | None:
    """Return the text of a file with lines after a directive; None if its line is not as expected."""
    # Other characters that str.splitlines() knows do not end a line for httpd.
    content = text.split("\n")
    line = content[directive.line - 1] if 0 < directive.line <= len(content) else ""
    match = re.match(r"([ \t]*)(\w+)\s", line)
    # Continued lines are left to the administrator, and lines in which a variable decides.
    if match is None or match[2].lower() != directive.kind or line.rstrip().endswith("\\") or "${" in line:
        return None
    end = "\r" if line.endswith("\r") else ""
    content[directive.line : directive.line] = [f"{match[1]}{each}{end}" for each in lines]
    return "\n".join(content)
