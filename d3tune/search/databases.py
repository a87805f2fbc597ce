"""Addresses of SQL databases: which one an address names, and with which installed driver it is opened."""

from importlib.util import find_spec

from d3tune.errors import UsageError
from d3tune.search.mlflow_file import file_of

# modules that open a kind of database, as SQLAlchemy names them in an address; its own default first
DRIVERS = {
    "postgresql": {"psycopg2": "psycopg2", "psycopg": "psycopg", "pg8000": "pg8000"},
    "mysql": {"mysqldb": "MySQLdb", "pymysql": "pymysql", "mysqlconnector": "mysql.connector"},
}
ADVICE = {"postgresql": "pip install 'd3tune[postgres]'", "mysql": "pip install pymysql"}
PORTS = {"postgresql": 5432, "mysql": 3306}


def driven(option: str, url: str) -> str:
    """An address that names a driver which is installed: its own, else the first that is.

    A run remembers an address, and may be gone on with where another driver is installed.

    Args:
        option: that gave it, for the message.
        url: of any kind; those of neither PostgreSQL nor MySQL are left as they are.

    Raises:
        UsageError: no driver for its kind is installed, or it names one that is not known and is missing.
    """
    scheme, colon, rest = url.partition(":")
    kind, _, named = scheme.partition("+")
    if kind not in DRIVERS or not colon:
        return url
    known = DRIVERS[kind]
    wanted = {named: known.get(named, named)} if named else {}
    for driver, module in {**wanted, **(known if named in ("", *known) else {})}.items():
        if _installed(module):
            return f"{kind}+{driver}:{rest}"
    lacking = f"its driver '{named}' is" if named and named not in known else "a driver for it is"
    raise UsageError(f"{option} {url}: {lacking} not installed; first: {ADVICE[kind]}")


def refuse_unreadable(option: str, url: str) -> None:
    """Refuse an address that is none.

    Raises:
        UsageError: SQLAlchemy cannot read it.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(f"{option} {url}: no address; write it as KIND://USER:PASSWORD@HOST:PORT/DATABASE") from None


def same_database(first: str, second: str) -> bool:
    """Whether two addresses name one database, as far as that shows without opening it."""
    return _database(first) == _database(second)


def _database(url: str) -> tuple[object, ...]:
    file = file_of(url)
    if file is not None:
        return ("sqlite", file.resolve())
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        named = make_url(url)
    except (ArgumentError, ValueError):
        return (url,)
    kind = named.get_backend_name()
    host = "localhost" if named.host in (None, "", "127.0.0.1", "::1") else named.host
    return (kind, named.query.get("host", host), named.port or PORTS.get(kind), named.database)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        # the package around it is missing
        return False
