"""SQLAlchemy engines on pools of wsgipool, for SQLAlchemy 2.0 and newer.

One word of the URL changes::

    engine = create_engine("mysql+wsgipool://shop:secret@db.example.com/orders?charset=utf8mb4")

``mysql+wsgipool`` takes what ``mysql+pymysql`` takes, ``mariadb+wsgipool`` what ``mariadb+pymysql`` takes, and
``postgresql+wsgipool`` what ``postgresql+psycopg`` takes. ``mysql+wsgipool://?name=orders`` is a database of
``wsgipool.toml``. For any other driver the class ``Pool`` alone can be used::

    engine = create_engine("mysql+mysqldb://shop@db.example.com/orders", poolclass=wsgipool.sqlalchemy.Pool)
"""

from wsgipool.sqlalchemy.pool import Pool, PoolTimeout

__all__ = ["Pool", "PoolTimeout"]
