"""Everything wsgipool raises, one small tree.

    Error
    ├── ConfigError         a setting is missing, unknown or wrong; says where and what would do
    ├── CacheDeadlock       creating a cached value waits, in the end, for itself
    ├── CacheTimeout        another thread or process kept a cache waiting for longer than was allowed
    ├── WrongThread         a connection, or a lock, was used by a thread that has not borrowed or taken it
    ├── LockError           a lock cannot be had, or was not what it promised
    │   ├── LockOrderError  a thread that holds locks asked for one that comes before them, or to write what it reads
    │   ├── LockTimeout     others had the lock until the deadline
    │   └── LockLost        the database ended the session that a lock was held by, before its end
    └── PoolError           the database cannot be had now: what a site answers with 503
        ├── ConnectFailed   a new connection could not be opened; the driver's error is __cause__
        ├── TooManyRequests more requests wait already than max_waiting allows
        ├── PoolTimeout     all connections were busy until the deadline
        ├── PoolDeadlock    the thread waits for a connection that only it could give back
        └── PoolClosed      the pool was closed

A connection returned twice, or to a pool it was not borrowed from, is a bug in the caller and raises ValueError.
"""


class Error(Exception):
    """Base of all errors of this package."""


class ConfigError(Error):
    """A setting is missing, unknown or out of range."""


class CacheDeadlock(Error):
    """A thread that creates a cached value waits for a value that is made from it: the wait could never end."""


class CacheTimeout(Error):
    """A cached value was not created within the timeout, by the thread that is at it."""


class WrongThread(Error):
    """A connection was used by a thread that has not borrowed it: kept after its return, or shared. A bug.

    Or a lock was given back by a thread that does not hold it.
    """


class LockError(Error):
    """A lock of `Locks` cannot be had, or was not held to the end."""


class LockOrderError(LockError):
    """A nested hold breaks the order that keeps threads from deadlocks. A bug; the message names both places."""


class LockTimeout(LockError):
    """Others had the lock until the deadline; the message says who, where and since when."""


class LockLost(LockError):
    """The session that held a lock of scope "database" has ended while the lock was held: others may have had it."""


class PoolError(Error):
    """A pool cannot hand out a connection."""


class ConnectFailed(PoolError):
    """The database refused a new connection or could not be reached; `__cause__` is the driver's own error."""


class TooManyRequests(PoolError):
    """As many requests wait for the pool as `max_waiting` allows; this one was refused at once."""


class PoolTimeout(PoolError):
    """No connection became free within the timeout."""


class PoolDeadlock(PoolError):
    """The thread already holds every connection of the pool, so waiting for one more could never end."""


class PoolClosed(PoolError):
    """The pool was closed."""
