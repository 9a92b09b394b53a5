"""What is taken out of texts before they are shown or stored: secrets, and the names of user, home and host."""

from __future__ import annotations

import io
import socket
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempering import redaction
from tempering.redaction import SECRET, anonymous, guard_streams, redacted, secrets, traceback_of

HOST, USER, HOME = "kestrel-7", "adalove", "/people/ada"


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment of which everything is known."""
    for name in ("USERNAME", "SUDO_USER", "COMPUTERNAME", "HOSTNAME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": HOME, "USER": USER, "LOGNAME": USER}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(redaction.getpass, "getuser", lambda: USER)
    return monkeypatch


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "MY_SECRET",
        "PGPASSWORD",
        "DB_PWD",
        "OPENAI_API_KEY",
        "api_key",
        "SSH_AUTH_SOCK",
        "SENTRY_DSN",
        "GH_PAT",
        "SLACK_WEBHOOK",
        "DB_PASS",
        "SMTP_PASS",
        "PASS",
        "DB_PASS2",
        "JWT",
        "CI_JOB_JWT",
        "API_BEARER",
        "MASTERKEY",
        "SSHKEY",
        "OPENAI_KEY1",
        "STORAGE_KEYS",
        "ENCRYPTIONKEY",
        "AZURE_STORAGE_CONNECTION_STRING",
        "CONNSTR",
    ],
)
def test_a_variable_whose_name_says_so_holds_a_secret(house: pytest.MonkeyPatch, name: str) -> None:
    house.setenv(name, "marmalade-42")
    assert redacted("sent marmalade-42, twice: marmalade-42") == f"sent {SECRET}, twice: {SECRET}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEYBOARD", "marmalade-42"),
        ("MONKEY", "marmalade-42"),
        ("HOTKEY", "marmalade-42"),
        ("KEYBOARD_LAYOUT", "marmalade-42"),
        ("COMPASS", "marmalade-42"),
        ("PASSES", "marmalade-42"),
        ("CONN_STRATEGY", "marmalade-42"),
        ("PATH", "/people/ada/bin"),
        ("OLDPWD", "/people/ada/work"),
        ("SOMEWHERE", "https://pypi.example:8080/simple/package@1.0"),
        ("SOMEWHERE", "git+ssh://git@host.example:people/work@main"),
        ("SOMEWHERE", "postgres://postgres@host.example/db"),
        ("PWD", "/people/ada/work"),
        ("PATTERN", "marmalade-42"),
        ("HF_TOKEN", "short"),
    ],
)
def test_what_is_no_secret_stays(house: pytest.MonkeyPatch, name: str, value: str) -> None:
    house.setenv(name, value)
    assert redacted(f"it is {value}.") == f"it is {value}."


def test_the_password_of_an_address_is_a_secret_in_any_variable(house: pytest.MonkeyPatch) -> None:
    house.setenv("SOMEWHERE", "http://ada:marmalade-42@proxy.example:3128")
    assert redacted("http://ada:marmalade-42@proxy.example:3128") == f"http://ada:{SECRET}@proxy.example:3128"


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("postgres://u:p/ss@word123@host", "p/ss@word123"),
        ("postgres://u:pass@word123@host/db?mail=a@b", "pass@word123"),
        ("postgres://u:marmalade-42@host/db?mail=a@b", "marmalade-42"),
        ("https://ghp_0123456789abcdefABCDEF@github.com/a/b", "ghp_0123456789abcdefABCDEF"),
        ("https://ghp_0123456789abcdefABCDEF:x-oauth-basic@github.com", "ghp_0123456789abcdefABCDEF"),
        ("redis://:marmalade-42@one,redis://:butter-43@two", "butter-43"),
        ("amqp://u:marma%40lade@host", "marma@lade"),
    ],
)
def test_passwords_and_tokens_of_addresses_however_they_are_written(house: pytest.MonkeyPatch, address: str, secret: str) -> None:
    house.setenv("SOMEWHERE", address)
    assert secret not in redacted(f"refused {address}, {secret}!")


def test_the_parts_of_a_connection_string_are_secrets(house: pytest.MonkeyPatch) -> None:
    house.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=somebody;AccountKey=marmalade-42==;EndpointSuffix=core.example")
    assert redacted("somebody has marmalade-42== at core.example") == f"somebody has {SECRET} at core.example"


def test_a_secret_is_known_in_the_forms_that_texts_hold_it_in(house: pytest.MonkeyPatch) -> None:
    value = 'it\'s "marmalade" \\ é'
    house.setenv("MY_SECRET", value)
    import json
    from urllib.parse import quote

    for form in (value, repr(value), json.dumps(value), quote(value, safe="")):
        assert "marmalade" not in redacted(f"told {form} away")


def test_a_secret_of_several_lines_is_known_line_by_line(house: pytest.MonkeyPatch) -> None:
    house.setenv("PRIVATE_PEM", "-----BEGIN-----\nmarmalade-42-marmalade\n-----END-----")
    assert redacted("line 2 is marmalade-42-marmalade") == f"line 2 is {SECRET}"


def test_a_secret_within_another_leaves_nothing_of_the_longer(house: pytest.MonkeyPatch) -> None:
    house.setenv("A_TOKEN", "marmalade")
    house.setenv("B_TOKEN", "marmalade-and-butter")
    assert redacted("marmalade-and-butter, marmalade") == f"{SECRET}, {SECRET}"
    lengths = [len(value) for value in secrets()]
    assert lengths == sorted(lengths, reverse=True)


@given(
    st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=8, max_size=40), st.text(max_size=40)
)
def test_no_text_holds_a_secret_after_it_was_redacted(value: str, around: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MY_TOKEN", value)
        found = redacted(f"{around}{value}{around}")
        if len(value.strip()) >= redaction.LEAST and value.strip() not in SECRET:
            assert found.count(SECRET) >= 1
            assert value not in found.replace(SECRET, "\0")


def test_the_names_of_user_home_and_host_are_taken_out(house: pytest.MonkeyPatch) -> None:
    text = f"{USER}@{HOST}: {HOME}/work/run.py and {HOME}"
    assert anonymous(text) == "[user]@[host]: ~/work/run.py and ~"


def test_the_host_goes_with_its_domain(house: pytest.MonkeyPatch) -> None:
    for full in (f"{HOST}.lab.example.org", f"{HOST}.x"):
        house.setattr(socket, "gethostname", lambda full=full: full)
        for bare in ("", HOST):
            house.setenv("HOSTNAME", bare)
            assert anonymous(f"on {full}, or {HOST}") == "on [host], or [host]"


def test_names_within_words_and_names_that_say_nothing_stay(house: pytest.MonkeyPatch) -> None:
    assert anonymous(f"{USER}s of {HOST}x in {HOME}m") == f"{USER}s of {HOST}x in {HOME}m"
    house.setenv("USER", "root")
    house.setenv("HOSTNAME", "localhost")
    house.setenv("LOGNAME", "ab")
    assert anonymous("the root of localhost, ab") == "the root of localhost, ab"


def test_a_user_without_a_name_is_no_error(house: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    house.setattr(redaction.getpass, "getuser", nameless)
    for name in ("USER", "LOGNAME"):
        house.delenv(name)
    assert anonymous("plain") == "plain"


def test_a_traceback_is_fit_to_be_handed_on(house: pytest.MonkeyPatch) -> None:
    house.setenv("HF_TOKEN", "marmalade-42")
    try:
        raise ValueError(f"marmalade-42 of {USER} in {HOME}/work")
    except ValueError as error:
        told = traceback_of(error)
    assert told.startswith("Traceback")
    assert f"ValueError: {SECRET} of [user] in ~/work" in told


def test_streams_are_looked_through_and_stay_streams(house: pytest.MonkeyPatch) -> None:
    house.setenv("HF_TOKEN", "marmalade-42")
    out, err = io.StringIO(), io.StringIO()
    house.setattr(sys, "stdout", out)
    house.setattr(sys, "stderr", err)
    house.setattr(threading, "excepthook", threading.excepthook)
    guard_streams()
    assert sys.stdout.write("a marmalade-42\n") == 15
    sys.stderr.writelines(["b marmalade-42\n", "c\n"])

    def fail() -> None:
        raise ValueError(f"marmalade-42 in {HOME}/work")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert out.getvalue() == f"a {SECRET}\n"
    assert err.getvalue().startswith(f"b {SECRET}\nc\nTraceback")
    assert f"ValueError: {SECRET} in ~/work" in err.getvalue()
    assert sys.stdout.getvalue() == out.getvalue()  # type: ignore[attr-defined]
