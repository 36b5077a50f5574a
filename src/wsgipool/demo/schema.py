"""The bookshop's tables and first books, in SQL for MariaDB and SQLite."""

import sqlite3
from typing import Any, NamedTuple


class Book(NamedTuple):
    id: int
    title: str
    author: str
    year: int
    price: int
    stock: int
    blurb: str


BOOKS = (
    Book(
        1,
        "Pride and Prejudice",
        "Jane Austen",
        1813,
        1150,
        40,
        "Elizabeth Bennet has a quick tongue and a quicker opinion of Mr Darcy; he has ten thousand a year "
        "and no idea how to be liked. It takes two proposals, one scandal and a long letter for either of "
        "them to notice how wrong a first impression can be.",
    ),
    Book(
        2,
        "Les Misérables",
        "Victor Hugo",
        1862,
        2490,
        25,
        "A stolen loaf costs Jean Valjean nineteen years; a bishop's candlesticks give him the rest of his "
        "life. Around his flight from the relentless Javert, Hugo builds a whole city of students, orphans, "
        "thieves and barricades, and still finds time for the sewers of Paris.",
    ),
    Book(
        3,
        "Братья Карамазовы",
        "Фёдор Достоевский",
        1880,
        2250,
        18,
        "An unbearable father is found dead, and each of his sons had a reason. The trial that follows is "
        "the least of it: what is really being judged is faith, freedom, and whether anyone may hand back "
        "the ticket to a world in which children suffer.",
    ),
    Book(
        4,
        "Don Quijote de la Mancha",
        "Miguel de Cervantes",
        1605,
        1990,
        30,
        "A country gentleman reads too much, puts a basin on his head and rides out to mend the world. His "
        "squire has come along for an island. Between the windmills and the beatings, the two of them hold "
        "the longest and kindest conversation in literature.",
    ),
    Book(
        5,
        "Faust. Eine Tragödie",
        "Johann Wolfgang von Goethe",
        1808,
        990,
        22,
        "A scholar who has studied everything and understood nothing makes a wager: his soul against a "
        "single moment he would wish to keep. The devil is witty, punctual and good company, and the bill "
        "comes to somebody else.",
    ),
    Book(
        6,
        "Moby-Dick",
        "Herman Melville",
        1851,
        1475,
        16,
        "Ishmael goes to sea to cure his low spirits and signs on with a captain who has only one errand. "
        "Part adventure, part encyclopaedia, part sermon, it follows the Pequod round half the globe after "
        "something white that does not care.",
    ),
    Book(
        7,
        "Frankenstein",
        "Mary Shelley",
        1818,
        875,
        35,
        "A student makes a man and runs away from him. The creature learns to speak from behind a cottage "
        "wall, asks for one friend, and is refused. Two hundred years on, it is still the best question "
        "ever put to people who build things.",
    ),
    Book(
        8,
        "Jane Eyre",
        "Charlotte Brontë",
        1847,
        1095,
        28,
        "Small, plain and not to be ordered about, a governess takes a post in a house where somebody "
        "laughs behind a locked door. She falls in love with its master, and then has to find out whether "
        "she can walk away from him.",
    ),
    Book(
        9,
        "吾輩は猫である",
        "夏目漱石",
        1905,
        1320,
        12,
        "A cat without a name lives with a schoolteacher who has a weak stomach and many unfinished "
        "projects. From under the veranda it watches the master's friends talk, boast and show off their "
        "learning, and it is not impressed.",
    ),
    Book(
        10,
        "Babička",
        "Božena Němcová",
        1855,
        890,
        9,
        "A grandmother arrives in a valley with a painted chest and a head full of sayings, and quietly "
        "puts a household in order. A year of feasts, floods and fairy tales, told by an author who badly "
        "wanted it to have been true.",
    ),
    Book(
        11,
        "Dom Casmurro",
        "Machado de Assis",
        1899,
        1050,
        14,
        "Bento Santiago sets out to tell us how his wife betrayed him. He is charming, learned and entirely "
        "sure of himself, and the longer he pleads his case, the less certain it is who wronged whom.",
    ),
    Book(
        12,
        "Alice's Adventures in Wonderland",
        "Lewis Carroll",
        1865,
        795,
        3,
        "A girl follows a rabbit who is late, and falls into a country where everyone is rude, logical and "
        "out of their mind. She keeps her manners, changes her size eleven times, and wins the argument by "
        "waking up.",
    ),
)

# The two databases differ only in {key}, {options} and {insert}.
TABLES = (
    """
    CREATE TABLE IF NOT EXISTS books (
        id INTEGER PRIMARY KEY {key},
        title VARCHAR(200) NOT NULL,
        author VARCHAR(200) NOT NULL,
        year INTEGER NOT NULL,
        price INTEGER NOT NULL,
        stock INTEGER NOT NULL CHECK (stock >= 0),
        blurb TEXT NOT NULL
    ) {options}
    """,
    """
    CREATE TABLE IF NOT EXISTS orders (
        id INTEGER PRIMARY KEY {key},
        customer VARCHAR(100) NOT NULL,
        placed_at DATETIME NOT NULL,
        total INTEGER NOT NULL
    ) {options}
    """,
    """
    CREATE TABLE IF NOT EXISTS order_lines (
        order_id INTEGER NOT NULL,
        book_id INTEGER NOT NULL,
        quantity INTEGER NOT NULL CHECK (quantity > 0),
        price INTEGER NOT NULL,
        PRIMARY KEY (order_id, book_id),
        FOREIGN KEY (order_id) REFERENCES orders (id),
        FOREIGN KEY (book_id) REFERENCES books (id)
    ) {options}
    """,
)

INSERT_BOOK = """
    {insert} INTO books (id, title, author, year, price, stock, blurb) VALUES (%s, %s, %s, %s, %s, %s, %s)
"""


def execute(conn: Any, statement: str, *values: object) -> Any:
    """Run a statement with %s for values, which sqlite3 spells differently; return the cursor."""
    if isinstance(conn, sqlite3.Connection):
        statement = statement.replace("%s", "?")
    cursor = conn.cursor()
    cursor.execute(statement, values)
    return cursor


def create(conn: Any) -> None:
    """Create missing tables and books; a second start keeps stock and orders."""
    if isinstance(conn, sqlite3.Connection):
        # Readers can continue while an order is written. The mode must be set outside a transaction.
        execute(conn, "PRAGMA journal_mode=WAL")
        key, options, insert = "AUTOINCREMENT", "", "INSERT OR IGNORE"
    else:
        key, options, insert = "AUTO_INCREMENT", "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4", "INSERT IGNORE"
    for table in TABLES:
        execute(conn, table.format(key=key, options=options))
    # A check for an empty table would fail if two processes start together, so existing books are ignored.
    for book in BOOKS:
        execute(conn, INSERT_BOOK.format(insert=insert), *book)
