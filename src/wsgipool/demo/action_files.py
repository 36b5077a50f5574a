"""The files by which the demo's site asks `wsgipool demo` for actions, and learns what happens.

The site's processes run as Apache's user and may do nothing to httpd and the database server. They create empty files,
whose names are those of actions, in a folder of theirs. `wsgipool demo` looks for the names that it knows and opens
nothing there, so a file can ask for nothing else. Its own file, the state, only it can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wsgipool.httpd.express import apache_user

VARIABLE = "BOOKSHOP_ACTIONS"
"""The environment variable of the site's processes that names the folder. Another httpd than the demo's has none."""
_REQUESTED = "requested"
_STATE = "actions.json"

State = dict[str, Any]
NO_STATE: State = {"host": "", "actions": [], "running": "", "events": []}


class ActionFiles:
    """The files below a folder that only `wsgipool demo` may change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._requested = folder / _REQUESTED

    def create(self) -> None:
        """Create the folder in which the site's processes create files, and the state."""
        self._requested.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(self._requested, apache_user().pw_name)
        self.write(NO_STATE)

    def ask_for(self, action: str) -> None:
        """Ask for an action, whose name is one of the state's."""
        (self._requested / action).touch()

    def requested(self, actions: Iterable[str]) -> list[str]:
        """Return those of the actions that were asked for."""
        return [action for action in actions if os.path.lexists(self._requested / action)]

    def forget(self, actions: Iterable[str]) -> None:
        """Remove the files of requested actions."""
        for action in actions:
            # To unlink a name follows no link, so this removes nothing outside the folder.
            with contextlib.suppress(OSError):
                (self._requested / action).unlink()

    def read(self) -> State:
        """Return the state."""
        state: State = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        return state

    def write(self, state: State) -> None:
        """Replace the state."""
        file = self.folder / f"{_STATE}.new"
        file.touch(mode=0o600)
        file.write_text(json.dumps(state), encoding="utf-8")
        if os.geteuid() == 0:
            shutil.chown(file, group=apache_user().pw_gid)
            file.chmod(0o640)
        file.replace(self.folder / _STATE)


def of_this_process() -> ActionFiles | None:
    """Return the files that the environment names; None if this httpd is not the demo's."""
    folder = os.environ.get(VARIABLE)
    return None if folder is None else ActionFiles(Path(folder))
