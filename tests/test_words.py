"""Words for people: no password of an address is among them."""

import pytest

from d3tune.words import masked, plural


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:{}@host/db",
        "mysql+pymysql://me:{}@host/db",
        "postgresql://host/db?user=me&password={}&sslmode=require",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{}%3BUID%3Dme",
        "http://me:{}@host:5000",
        "https://{}@host/mlflow",
        "--tracking-uri https://me:{}@host: no answer; give another",
    ],
)
@pytest.mark.parametrize("secret", ["hidden", "hid-d.en!"])
def test_no_password_is_shown_and_the_rest_is(text: str, secret: str) -> None:
    assert masked(text.format(secret)) == text.format("***")


@pytest.mark.parametrize("secret", ["a/hidden", "a'hidden", 'a"hidden', "a@hidden", "a:hidden"])
def test_odd_passwords_of_databases_are_hidden_too(secret: str) -> None:
    assert masked(f"postgresql://me:{secret}@host/db") == "postgresql://me:***@host/db"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me/mlflow.db",
        "http://127.0.0.1:5000/#/experiments/1/runs?searchFilter=tags.%60d3tune.run%60",
        "MLflow at http://host:5000: no answer",
        "trial 3: val/H 0.512 @ update 40",
    ],
)
def test_what_holds_none_stays(text: str) -> None:
    assert masked(text) == text


def test_numbers_of_things() -> None:
    assert (plural(1, "seed"), plural(0, "seed"), plural(2, "seed")) == ("1 seed", "0 seeds", "2 seeds")
