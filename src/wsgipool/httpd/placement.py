"""The interpreters that run a site's scripts, as httpd itself places requests.

Some placements depend on the request: a dispatch script, %{ENV:…}, <If>, a regular expression over paths. Then every
group that could serve is counted, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsgipool.httpd import dump, samples
from wsgipool.httpd.dump import Directive, Dump, HttpdConfigError
from wsgipool.httpd.private import Answer, PrivateHttpd
from wsgipool.httpd.samples import SCRIPT_HANDLERS, Paths, Server, is_in_scope, literal_start

EMBEDDED = ""
"""Process group of Apache's own children, as mod_wsgi names it; %{GLOBAL} in the configuration."""

_GLOBAL = "%{GLOBAL}"
_RESOURCE = "%{RESOURCE}"
_SERVER = "%{SERVER}"
_AT_REQUEST = ("%{HOST}", "%{ENV:", _RESOURCE)
_GROUPS = (
    ("WSGIProcessGroup", "process-group", _GLOBAL),
    ("WSGIApplicationGroup", "application-group", _RESOURCE),
)
"""The directives, the options of WSGIScriptAlias that replace them, and their defaults."""
_INTERNAL_SERVER_ERROR = 500
_OWN_SCRIPTS = ("wsgipool", "handlers")
_HANDLERS = ("addhandler", "sethandler", "addtype", "forcetype")
_ALIASES = ("wsgiscriptalias", "wsgiscriptaliasmatch")


@dataclass(frozen=True)
class Interpreter:
    """An interpreter that runs requests: an application group in a process group."""

    group: str
    """The process group; EMBEDDED for Apache's own children."""
    application_group: str
    """Its configured name, followed by host and path where one name means several interpreters."""


@dataclass(frozen=True)
class Site:
    """A script of a server."""

    server: str
    """The ServerName."""
    directive: Directive
    """The WSGIScriptAlias, or the directive that gives the script to mod_wsgi."""
    script: Path
    interpreters: frozenset[Interpreter]


@dataclass
class Placement:
    """The scripts of a configuration, and the interpreters that may run them."""

    interpreters: set[Interpreter] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    _sites: dict[tuple[str, str, Path], Site] = field(default_factory=dict)

    @property
    def sites(self) -> list[Site]:
        """The scripts of all servers."""
        return list(self._sites.values())

    def add(self, site: Site) -> None:
        """Add a site, or the interpreters of one that is known."""
        key = (site.server, site.directive.origin, site.script)
        known = self._sites.get(key, site)
        self._sites[key] = replace(known, interpreters=known.interpreters | site.interpreters)
        self.interpreters |= site.interpreters


def place(configuration: Dump, daemons: Iterable[str]) -> Placement:
    """Return the sites of a configuration. `daemons` are the names of its daemon process groups."""
    placement = Placement()
    if not _sources(configuration):
        return placement
    servers = samples.servers(configuration)
    everywhere = [EMBEDDED, *daemons]
    try:
        with PrivateHttpd(configuration) as httpd:
            for server in servers:
                _Asking(configuration, server, everywhere, placement).with_answers(httpd)
    except HttpdConfigError as error:
        placement.notes.append(f"every process group that could serve is counted, since httpd cannot be asked: {error}")
        for server in servers:
            _Asking(configuration, server, everywhere, placement).without_answers()
    return placement


def of_options(script: Directive) -> Interpreter:
    """Return the interpreter that the options of a WSGIImportScript or the like name."""
    given = dump.options(script.text)
    group = given.get("process-group", _GLOBAL)
    return Interpreter(EMBEDDED if group == _GLOBAL else group, given.get("application-group", _GLOBAL))


def _sources(configuration: Dump) -> list[Directive]:
    """Return the directives by which mod_wsgi gets requests."""
    aliases = configuration.named("WSGIScriptAlias", "WSGIScriptAliasMatch", "WSGIHandlerScript")
    handlers = [each for each in configuration.named(*_HANDLERS) if samples.handled_extensions(each) is not None]
    return [*aliases, *handlers, *_rewritten(configuration)]


def _rewritten(configuration: Dump) -> list[Directive]:
    return [
        each
        for each in configuration.named("RewriteRule")
        if re.search(rf"\b(?:H|handler)=(?:{'|'.join(map(re.escape, SCRIPT_HANDLERS))})", each.text, re.I)
    ]


class _Asking:
    """The placement of one server's scripts."""

    def __init__(self, configuration: Dump, server: Server, groups: list[str], placement: Placement) -> None:
        self._configuration = configuration
        self._server = server
        self._all_groups = groups
        self._placement = placement
        self._handlers: Mapping[str, Directive] = {
            each.arguments[0]: each for each in configuration.named("WSGIHandlerScript") if is_in_scope(each, server)
        }
        self._in_scope = [each for each in _sources(configuration) if is_in_scope(each, server)]

    def with_answers(self, httpd: PrivateHttpd) -> None:
        """Ask httpd about this server's scripts."""
        if not self._in_scope:
            return
        paths = Paths(self._configuration, self._server)
        answers = [httpd.ask(self._server.number, path, self._server.host) for path in paths]
        found = [(source, answer) for answer in answers if (source := self._source(answer))]
        seen = {id(each) for answer in answers for each in (answer.process_group, answer.application_group) if each}
        for source, answer in found:
            script = Path(self._script(source, answer))
            if _is_missing(script.parent):
                self._note(f"{script} does not exist, so every group is counted that could serve it")
                self._add(source, script, self._could_serve(source))
            else:
                self._add(source, script, self._places(source, answer, self._conditional(seen, source)))
        self._add_unreached({id(source) for source, _ in found}, complete=paths.is_complete)
        if any(_lets_handlers_in(each) for each in self._configuration.named("AllowOverride")):
            self._note("handlers of .htaccess files (AllowOverride) are not known, and so not counted")

    def without_answers(self) -> None:
        """Count every group that could serve this server's scripts."""
        for source in self._in_scope:
            self._add(source, Path(_target(source)), self._could_serve(source))

    def _add(self, source: Directive, script: Path, interpreters: Iterable[Interpreter]) -> None:
        self._placement.add(Site(self._server.name, source, script, frozenset(interpreters)))

    def _source(self, answer: Answer) -> Directive | None:
        """Return the directive by which mod_wsgi would run the request."""
        if Path(answer.file).parent.parts[-2:] == _OWN_SCRIPTS:
            return None  # such as the status page, which runs beside the site's script
        if answer.handler in self._handlers:
            return self._handlers[answer.handler]
        if answer.handler not in SCRIPT_HANDLERS:
            return None
        if answer.alias is not None:
            return answer.alias if self._is_of(answer.alias, answer.file) else None
        # Without ExecCGI or a file mod_wsgi answers 403 or 404; embedded mode, which is off here, would come after.
        if answer.status != _INTERNAL_SERVER_ERROR:
            return None
        handlers = [each for each in self._in_scope if each.kind in _HANDLERS or each.kind == "rewriterule"]
        near = [each for each in handlers if samples.is_below_folder(each, answer.file)]
        return next(reversed(near or handlers), None)

    def _is_of(self, alias: Directive, file: str) -> bool:
        """Return whether an alias of this server can lead to a file; a broken .htaccess file ends the search before."""
        if alias not in self._in_scope:
            return False
        target, found = Path(alias.arguments[1]), Path(file)
        if alias.kind == "wsgiscriptaliasmatch" or found == target:
            return True
        # The alias of a folder leads to its files, and one with path info to a file above.
        return found.is_file() and (found.is_relative_to(target) or target.is_relative_to(found))

    def _script(self, source: Directive, answer: Answer) -> str:
        return source.arguments[1] if source.kind == "wsgihandlerscript" else answer.file

    def _add_unreached(self, reached: set[int], *, complete: bool) -> None:
        """Add the directives whose requests were not among the samples."""
        for source in self._in_scope:
            is_own = samples.scope(source.sections) == self._server.number
            if id(source) in reached or not is_own:
                continue
            self._note(f"{source.origin}: no sample request reached {source.name}, so every group is counted")
            self._add(source, Path(_target(source)), self._could_serve(source))
        if not complete:
            self._note(f"{self._server.name} has more files than were looked at, so every group is counted")
            for source in self._in_scope:
                self._add(source, Path(_target(source)), self._could_serve(source))

    # --- from directives to interpreters -----------------------------------------------------------------------------

    def _places(self, source: Directive, answer: Answer, possible: list[Directive]) -> Iterator[Interpreter]:
        given = _options(source)
        applied = {"WSGIProcessGroup": answer.process_group, "WSGIApplicationGroup": answer.application_group}
        values: dict[str, list[str]] = {}
        for name, option, default in _GROUPS:
            directive = applied[name]
            values[name] = [given.get(option) or (directive.arguments[0] if directive else default)]
            if option not in given:
                values[name] += [each.arguments[0] for each in possible if each.kind == name.lower()]
        for group in self._process_groups(values["WSGIProcessGroup"], answer.dispatch):
            for value in values["WSGIApplicationGroup"]:
                yield Interpreter(group, self._application_group(value, answer.mount))
        if answer.dispatch is not None:
            name = dump.options(answer.dispatch.text).get("application-group", _GLOBAL)
            yield Interpreter(EMBEDDED, self._application_group(name, answer.mount))

    def _process_groups(self, values: list[str], dispatch: Directive | None) -> set[str]:
        groups = set()
        for value in values:
            if value == _GLOBAL:
                groups.add(EMBEDDED)
            elif value == _SERVER:
                groups.add(self._server.group)
            elif value.startswith(_AT_REQUEST):
                self._note(f"WSGIProcessGroup {value} is decided at each request, so every group is counted")
                groups |= set(self._all_groups)
            else:
                groups.add(value)
        if dispatch is not None:
            self._note(f"{dispatch.origin}: WSGIDispatchScript decides at each request, so every group is counted")
            groups |= set(self._all_groups)
        return groups

    def _application_group(self, value: str, mount: str) -> str:
        if value == _RESOURCE:
            return f"{value} {self._server.group} {mount}"
        return f"{value} {self._server.group}" if value == _SERVER else value

    def _conditional(self, seen: set[int], source: Directive) -> list[Directive]:
        """Return the directives that may apply to requests of a script which were not among the samples."""
        found = []
        for directive in self._configuration.named(*(name for name, _, _ in _GROUPS)):
            if id(directive) in seen or not is_in_scope(directive, self._server):
                continue
            if reason := _condition(directive, source):
                self._note(f"{directive.origin}: {reason} may apply to some requests, so {directive.text} is counted")
                found.append(directive)
        return found

    def _could_serve(self, source: Directive) -> Iterator[Interpreter]:
        given = _options(source)
        groups, names = (
            [given[option]] if option in given else self._values(source, name, default)
            for name, option, default in _GROUPS
        )
        mount = source.arguments[0] if source.kind in _ALIASES else ""
        for group in self._process_groups(groups, None):
            for name in names:
                yield Interpreter(group, self._application_group(name, mount))

    def _values(self, source: Directive, name: str, default: str) -> list[str]:
        """Return the values of a directive that could apply to a source's requests."""
        named = [each for each in self._configuration.named(name) if is_in_scope(each, self._server)]
        beside = [each.arguments[0] for each in named if each.sections == source.sections and samples.inner(each)]
        if beside:
            return beside[-1:]
        is_default_set = any(not samples.inner(each) for each in named)
        return [*(each.arguments[0] for each in named), *([] if is_default_set else [default])]

    def _note(self, text: str) -> None:
        if text not in self._placement.notes:
            self._placement.notes.append(text)


def _condition(directive: Directive, source: Directive) -> str:
    """Return the section that a sample may have missed; "" if the samples decide."""
    for section in directive.sections:
        name = section.kind
        if name in ("if", "elseif", "else"):
            return f"<{section.name}>"
        is_pattern = name == "locationmatch" or (name == "location" and len(section.arguments) > 1)
        if is_pattern or (name == "location" and "*" in section.text):
            start = literal_start(section.arguments[-1]) if is_pattern else ""
            mount = source.arguments[0] if source.kind == "wsgiscriptalias" else "/"
            if start.startswith(mount.rstrip("/") or "/") or mount.startswith(start):
                return f"<{section.name} {section.text}>"
    return ""


def _lets_handlers_in(override: Directive) -> bool:
    """Return whether an AllowOverride lets .htaccess files give files to mod_wsgi."""
    return bool({"all", "fileinfo"} & {word.lower() for word in override.arguments})


def _options(source: Directive) -> dict[str, str]:
    """Return the options of a directive of mod_wsgi."""
    return dump.options(source.text) if source.kind in (*_ALIASES, "wsgihandlerscript") else {}


def _target(source: Directive) -> str:
    """Return the script of a directive, as far as it names one."""
    return source.arguments[1] if source.kind in (*_ALIASES, "wsgihandlerscript") else ""


def _is_missing(folder: Path) -> bool:
    try:
        folder.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
