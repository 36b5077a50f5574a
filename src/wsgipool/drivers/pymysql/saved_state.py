"""The Python state of a connection before its first holder, restored at each return that finds a change."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from pymysql.constants import SERVER_STATUS

if TYPE_CHECKING:
    from wsgipool.drivers.pymysql.connection import PooledConnection

AUTOCOMMIT = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT

_SETTINGS = (
    *("autocommit_mode", "charset", "client_flag", "collation", "cursorclass", "db", "encoding", "init_command"),
    *("max_allowed_packet", "sql_mode", "use_unicode", "_local_infile", "_read_timeout", "_write_timeout"),
)
"""Attributes with which a holder can change a connection.

Attributes for connecting are not needed: a connection that its holder has reconnected is closed.
"""

_CHANGED_BY_USE = frozenset({
    "_affected_rows", "_auth_plugin_name", "_closed", "_current_timeout", "_next_seq_id", "_result", "_rfile", "_sock",
    "session_end", "pipeline", "sent_at", "server_status",
})  # fmt: skip
"""Attributes that change with the use of a connection, and not by its holder."""

_settings = itemgetter(*_SETTINGS)


class SavedState:
    """The attributes of a connection and the converters in its dictionaries."""

    __slots__ = ("_attributes", "_decoders", "_encoders", "_number", "_settings", "autocommit")

    def __init__(self, connection: PooledConnection) -> None:
        """Save the state of a connection."""
        state = vars(connection)
        self._attributes = {name: value for name, value in state.items() if name not in _CHANGED_BY_USE}
        self._settings: tuple[Any, ...] = _settings(state)
        self._number = len(state)
        self._decoders = dict(connection.decoders)
        self._encoders = dict(connection.encoders)
        self.autocommit: int = connection.server_status & AUTOCOMMIT
        """The autocommit flag of the server's status, or 0."""

    def is_unchanged(self, connection: PooledConnection) -> bool:
        """Return whether the connection still has the saved state."""
        state = vars(connection)
        return bool(
            _settings(state) == self._settings
            and len(state) == self._number
            and state["decoders"] == self._decoders
            and state["encoders"] == self._encoders
        )

    def restore(self, connection: PooledConnection) -> bool:
        """Restore the state; return whether the character set or the collation was changed."""
        state = vars(connection)
        before = state["charset"], state["collation"]
        for name in state.keys() - self._attributes.keys() - _CHANGED_BY_USE:
            del state[name]
        state.update(self._attributes, decoders=dict(self._decoders), encoders=dict(self._encoders))
        return before != (connection.charset, connection.collation)
