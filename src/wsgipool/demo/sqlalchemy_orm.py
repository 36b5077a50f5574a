"""The queries of the bookshop by SQLAlchemy's ORM, on connections of the pool.

Each function has a session of its own, which returns its connection at the end of the `with` block. So pages are made
without a connection.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Integer, cast, create_engine, event, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, sessionmaker

import wsgipool
from wsgipool import pools
from wsgipool.demo import POOL_SIZE
from wsgipool.demo.bookshop import FailedOnPurposeError, Failure, Row, now, remember
from wsgipool.sqlalchemy import Pool

# A URL mysql+wsgipool:// is all that MySQL needs; the pool class is for SQLite.
engine = create_engine(os.environ["BOOKSHOP_DATABASE"], poolclass=Pool, pool_settings={"max_size": POOL_SIZE})
new_session = sessionmaker(engine)


@event.listens_for(engine, "checkout")
def remember_connection(connection: Any, *_: object) -> None:
    remember(connection)


class Base(DeclarativeBase):
    pass


class Book(Base):
    __tablename__ = "books"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author: Mapped[str]
    year: Mapped[int]
    price: Mapped[int]
    stock: Mapped[int]
    blurb: Mapped[str]


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    placed_at: Mapped[datetime]
    total: Mapped[int]
    lines: Mapped[list[OrderLine]] = relationship()


class OrderLine(Base):
    __tablename__ = "order_lines"

    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("books.id"), primary_key=True)
    quantity: Mapped[int]
    price: Mapped[int]


BOOK = (Book.id, Book.title, Book.author, Book.year, Book.price, Book.stock)
ORDER = (Order.id, Order.customer, Order.placed_at, Order.total)


def all_books() -> list[Row]:
    with new_session() as session:
        return fetch(session, select(*BOOK).order_by(Book.id))


def find_book(book_id: int) -> Row | None:
    with new_session() as session:
        return first(session, select(*BOOK, Book.blurb).where(Book.id == book_id))


def last_orders() -> list[Row]:
    with new_session() as session:
        return fetch(session, select(*ORDER).order_by(Order.id.desc()).limit(50))


def find_order(order_id: int) -> Row | None:
    with new_session() as session:
        order = first(session, select(*ORDER).where(Order.id == order_id))
        lines = (
            select(OrderLine.book_id, Book.title, Book.author, OrderLine.quantity, OrderLine.price)
            .join(Book, Book.id == OrderLine.book_id)
            .where(OrderLine.order_id == order_id)
            .order_by(OrderLine.book_id)
        )
        return order and {**order, "lines": fetch(session, lines)}


def place_order(book_id: int, customer: str, quantity: int) -> int | None:
    with new_session.begin() as session:
        # The UPDATE with its condition comes before any SELECT, since other hosts take orders, too. It locks the book,
        # so the second of two orders for the last copy finds the new stock.
        take = update(Book).where(Book.id == book_id, Book.stock >= quantity).values(stock=Book.stock - quantity)
        taken: Any = session.execute(take)
        if taken.rowcount == 0:
            return None
        price = session.scalars(select(Book.price).where(Book.id == book_id)).one()
        line = OrderLine(book_id=book_id, quantity=quantity, price=price)
        order = Order(customer=customer, placed_at=now(), total=price * quantity, lines=[line])
        session.add(order)
        session.flush()
        return order.id


def best_sellers(seconds: float) -> tuple[list[Row], float]:
    copies = cast(func.sum(OrderLine.quantity), Integer)
    revenue = cast(func.sum(OrderLine.quantity * OrderLine.price), Integer)
    with new_session() as session:
        session.connection()  # the checkout, before the time is taken
        started = time.monotonic()
        if engine.name == "sqlite":
            time.sleep(seconds)
        else:
            session.execute(select(func.sleep(seconds)))
        books = fetch(
            session,
            select(Book.id, Book.title, Book.author, copies.label("copies"), revenue.label("revenue"))
            .join(OrderLine, OrderLine.book_id == Book.id)
            .group_by(Book.id, Book.title, Book.author)
            .order_by(revenue.desc(), Book.id)
            .limit(10),
        )
        return books, time.monotonic() - started


def fail(customer: str) -> Failure:
    with suppress(FailedOnPurposeError), new_session.begin() as session:
        session.add(Order(customer=customer, placed_at=now(), total=0))
        orders_during = count_orders(session)
        raise FailedOnPurposeError
    with new_session() as session:
        left_behind = fetch(session, select(Order.id).where(Order.customer == customer))
        return Failure(orders_during, count_orders(session), bool(left_behind))


def pool() -> wsgipool.Pool[Any]:
    engine.connect().close()  # the first connection creates the pool
    (stats,) = pools.stats()
    return pools.pool(stats.name)


def count_orders(session: Session) -> int:
    return session.scalars(select(func.count()).select_from(Order)).one()


def fetch(session: Session, statement: Any) -> list[Row]:
    return [dict(row) for row in session.execute(statement).mappings()]


def first(session: Session, statement: Any) -> Row | None:
    row = session.execute(statement).mappings().one_or_none()
    return None if row is None else dict(row)
