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


def joinings(configuration: Dump, site_configuration: Configuration, package: Path, python_home: str) -> list[Joining]:
    """Return what each site needs. `python_home` is the virtual environment of `package`; "" if it has none."""
    sites = {_what_joins(site.directive): site for site in reversed(site_configuration.sites)}
    loading = set(site_configuration.preloaded)
    found = []
    for site in reversed(sites.values()):
        others = [other for other in site_configuration.sites if other.script != site.script]
        try:
            found.append(_joining(site, others, loading, configuration, site_configuration, package, python_home))
        except ValueError as error:
            reason = f"{error} has characters that httpd's configuration cannot contain; rename the file or its folder"
            found.append(_by_hand(site, reason))
    return found


def _what_joins(directive: Directive) -> tuple[object, ...]:
    """Return a key of what joins at once: a script at several paths of a section, the scripts of another directive."""
    if directive.kind == "wsgiscriptalias":
        return directive.sections, directive.arguments[1:]
    return directive.sections, directive.origin, directive.text


def _joining(
    site: Site,
    others: Sequence[Site],
    loading: set[Interpreter],
    configuration: Dump,
    known: Configuration,
    package: Path,
    python_home: str,
) -> Joining:
    if site.directive.kind != "wsgiscriptalias" and site.interpreters <= loading:
        return Joining(site, site.directive, [], "", needs_python_home=False)
    reason = _unclear(site, configuration, known.daemons) or _ambiguous(site, known.sites)
    if reason := reason or _outdated(site, configuration, package):
        return _by_hand(site, reason)
    (group,) = {interpreter.group for interpreter in site.interpreters}
    (name,) = {interpreter.application_group for interpreter in site.interpreters}
    after = _later(site.directive, known.daemons.get(group), configuration)
    if after.sections != site.directive.sections or after.file != site.directive.file:
        return _by_hand(site, f"move {after.name} {group} ({after.origin}) before its section, and run this again")
    beside = [other for other in others if _is_inside(other.directive, site.directive)]
    if beside and name.startswith(OPEN_GROUPS):
        option = f"application-group={_slug(site, others)}"
        reason = f"a line in its section would change {beside[0].script}, too; write {option} into its "
        return _by_hand(site, f"{reason}{site.directive.name}, and run this again")
    lines = [] if beside else list(_groups(site, group, name, configuration))
    if name.startswith(OPEN_GROUPS):
        name = _name(site, others, group)
        lines.append(f"WSGIApplicationGroup {name}")
    interpreter = Interpreter(group, name)
    if interpreter not in loading:
        options = f"process-group={quoted(group or _GLOBAL)} application-group={quoted(name)}"
        lines.append(f"WSGIImportScript {quoted(site.script)} {options}")
        lines.append(f"WSGIImportScript {quoted(package / PRELOAD)} {options}")
    needs_home = bool(python_home) and bool(lines) and not _has_python(group, configuration, known.daemons)
    if needs_home and group != EMBEDDED:
        daemon = known.daemons[group]
        option = f"python-home={quoted(python_home)}"
        reason = f"add {option} to WSGIDaemonProcess {group} ({daemon.origin}), and run this again"
        return _by_hand(site, reason)
    if needs_home and any(EMBEDDED in {each.group for each in other.interpreters} for other in others):
        reason = (
            "it shares Apache's own children with other sites, whose Python would change too; give it processes of its "
            f"own: write `WSGIDaemonProcess {_slug(site, others)} processes=2 threads=8 "
            f"python-home={quoted(python_home)}` before its <VirtualHost> and `WSGIProcessGroup {_slug(site, others)}` "
            "into it, and run this again"
        )
        return _by_hand(site, reason)
    loading.add(interpreter)
    return Joining(site, after, lines, "", needs_python_home=needs_home)


def _is_inside(directive: Directive, other: Directive) -> bool:
    """Return whether a directive stands in the section of another one, or in a section that inherits from it."""
    return directive.sections[: len(other.sections)] == other.sections


def _by_hand(site: Site, reason: str) -> Joining:
    return Joining(site, site.directive, [], reason, needs_python_home=False)


def _later(alias: Directive, daemon: Directive | None, configuration: Dump) -> Directive:
    """Return the later one: httpd wants a process group to be known where WSGIImportScript names it."""
    order = configuration.directives
    return daemon if daemon is not None and order.index(daemon) > order.index(alias) else alias


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
