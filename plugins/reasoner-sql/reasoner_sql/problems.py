"""The generator `sql_problems`: questions about a small shop, each with three databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from random import Random
from typing import Any

from reasoner import DataError

DATABASES = 3
TRIES = 200
"""draws without a new problem after which there is no more"""
SCHEMA = """\
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT);
CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT, price REAL);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, product_id INTEGER, quantity INTEGER);
"""
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo")
CITIES = ("Bonn", "Lyon", "Oslo", "Rome")
PRODUCTS = ("lamp", "chair", "table", "clock", "vase", "shelf")
KINDS: tuple[tuple[str, str, bool], ...] = (
    ("How many customers live in {city}?", "SELECT COUNT(*) FROM customers WHERE city = '{city}'", False),
    (
        "Which products cost more than {price}? Give their names.",
        "SELECT name FROM products WHERE price > {price}",
        False,
    ),
    (
        "List the names of all products that cost at least {price}, the cheapest first, those of one price by name.",
        "SELECT name FROM products WHERE price >= {price} ORDER BY price, name",
        True,
    ),
    (
        "What is the sum of the quantities of all orders above {few} pieces?",
        "SELECT COALESCE(SUM(quantity), 0) FROM orders WHERE quantity > {few}",
        False,
    ),
    (
        "For each city with more than {few} customers, give the city and how many customers it has.",
        "SELECT city, COUNT(*) FROM customers GROUP BY city HAVING COUNT(*) > {few}",
        False,
    ),
    (
        "Which customers have ordered a {product}? Give each name once.",
        "SELECT DISTINCT c.name FROM customers c JOIN orders o ON o.customer_id = c.id "
        "JOIN products p ON p.id = o.product_id WHERE p.name = '{product}'",
        False,
    ),
    (
        "Which customers in {city} have ordered nothing? Give their names.",
        "SELECT name FROM customers WHERE city = '{city}' AND id NOT IN (SELECT customer_id FROM orders)",
        False,
    ),
    (
        "Which product was ordered in the largest number of pieces, and how many were they? Of several, the first by "
        "name. Leave out orders of {few} pieces or fewer.",
        "SELECT p.name, SUM(o.quantity) AS pieces FROM orders o JOIN products p ON p.id = o.product_id "
        "WHERE o.quantity > {few} GROUP BY p.id ORDER BY pieces DESC, p.name LIMIT 1",
        False,
    ),
)
"""question, reference query, whether the order of the rows counts"""


def sql_problems(count: int, seed: int) -> Iterator[Mapping[str, Any]]:
    """Problems, all different: `question` (with the tables), `answer` (a query), `databases`, `ordered`.

    Raises:
        DataError: there are not that many different problems.
    """
    draw = Random(f"sql_problems:{seed}")
    seen: set[str] = set()
    for _ in range(count):
        for _ in range(TRIES):
            question, query, ordered = draw.choice(KINDS)
            values = _values(draw)
            asked, answer, databases = question.format(**values), query.format(**values), _databases(draw, values)
            if asked not in seen and _differ(answer, databases):
                break
        else:
            raise DataError(f"sql_problems has only {len(seen)} different problems: lower the limit.")
        seen.add(asked)
        yield {
            "question": f"{SCHEMA}\n{asked}",
            "answer": answer,
            "databases": databases,
            "ordered": ordered,
        }


def _differ(query: str, databases: list[str]) -> bool:
    """Whether a query has different results, so that no constants could stand for it."""
    results = set()
    for script in databases:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(script)
            results.add(tuple(sorted(connection.execute(query).fetchall())))
    return len(results) > 1


def _values(draw: Random) -> dict[str, Any]:
    return {
        "city": draw.choice(CITIES),
        "price": draw.randrange(10, 60),
        "few": draw.randrange(1, 4),
        "product": draw.choice(PRODUCTS),
    }


def _databases(draw: Random, values: Mapping[str, Any]) -> list[str]:
    """Databases of different sizes in which the values of the question occur; there are no orders in the first one."""
    return [_database(draw, values, customers=4 + 4 * index, ordering=index > 0) for index in range(DATABASES)]


def _database(draw: Random, values: Mapping[str, Any], customers: int, ordering: bool) -> str:
    cities = [values["city"], *draw.choices(CITIES, k=customers - 1)]
    people = [(number, draw.choice(NAMES) + str(number), city) for number, city in enumerate(cities, 1)]
    prices = [draw.randrange(5, 70) + draw.choice((0.0, 0.5)) for _ in PRODUCTS]
    for place, near in zip(draw.sample(range(len(prices)), 3), (-1, 0, 1), strict=True):
        prices[place] = float(values["price"] + near)  # > and >= differ, and so do prices next to it
    goods = [(number, name, price) for number, (name, price) in enumerate(zip(PRODUCTS, prices, strict=True), 1)]
    buyers = draw.sample(range(1, customers + 1), customers // 2)
    orders = [
        (number, draw.choice(buyers), draw.randrange(1, len(PRODUCTS) + 1), draw.randrange(1, 6))
        for number in range(1, 3 * customers)
    ]
    rows: dict[str, list[Any]] = {"customers": people, "products": goods, "orders": orders if ordering else []}
    filled = (f"INSERT INTO {table} VALUES {', '.join(map(repr, row))};\n" for table, row in rows.items() if row)
    return SCHEMA + "".join(filled)
