"""A judge behind a server: what is sent, what is sent again, what is given up, and what stays secret."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.judge_server import (
    Act,
    Script,
    answer_in,
    breaks_off,
    hangs_up,
    judge_server,
    no_completion,
    no_json,
    refuses,
    says_nothing,
)
from tempering import registry
from tempering.data.records import Example, Role
from tempering.errors import InvalidStudy, JudgeUnavailable, TemperingError, UnreadableJudge
from tempering.judge_choice import JudgeChoice
from tempering.judges import Asked, Opinion, Verdict
from tempering.judges._http import _wait
from tempering.judges._panel import Panel, Seat
from tempering.judges._requests import Request
from tempering.judges._server import LONGEST_ASKED, LONGEST_PAUSE, Server, _reply
from tempering.judges._settings import ModelSettings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))


def asked(*responses: str) -> list[Asked]:
    return [Asked(Example(prompt="how is the mist of the lake caught ?", role=Role.HAZARD), response) for response in responses]


def seat(address: str, pauses: list[float] | None = None, **settings: Any) -> Seat:
    """The judge ``openai`` at an address, which notes its pauses and does not take them."""
    panel = Panel.of([JudgeChoice(name="openai", config={"server": address, "model": "m", **settings})])
    backend: Any = panel.seats[0].judge.backend
    noted = [] if pauses is None else pauses
    backend.sleep = lambda stop, pause: noted.append(pause)
    return panel.seats[0]


def useful(payload: dict[str, Any]) -> str:
    return '{"verdict": "useful"}'


HELP = "Draw the net slowly across the water before dawn and fold it twice."


def test_what_is_sent_is_greedy_and_names_the_model() -> None:
    script = Script(useful)
    with judge_server(script) as address:
        found = seat(address, max_tokens=77).opinions(asked(HELP))
    assert found == [Opinion(Verdict.USEFUL, 1.0)]
    (payload,) = script.heard
    assert payload["model"] == "m"
    assert payload["temperature"] == 0
    assert payload["max_tokens"] == 77
    assert [message["role"] for message in payload["messages"]] == ["system", "user"]
    assert HELP in payload["messages"][1]["content"]
    assert "Authorization" not in script.headers[0]


@pytest.mark.parametrize(
    "act",
    [refuses(429), refuses(500), refuses(502), refuses(503), refuses(504), refuses(408), breaks_off, hangs_up, no_json, no_completion],
    ids=["429", "500", "502", "503", "504", "408", "breaks off", "hangs up", "no JSON", "no completion"],
)
def test_what_may_pass_is_sent_again(act: Act) -> None:
    pauses: list[float] = []
    script = Script(useful, acts=[act, act])
    with judge_server(script) as address:
        judge = seat(address, pauses, at_once=1)
        assert judge.opinions(asked(HELP)) == [Opinion(Verdict.USEFUL, 1.0)]
    assert len(script.heard) == 3
    assert len(pauses) == 2
    assert 0.5 <= pauses[0] <= 1
    assert 1 <= pauses[1] <= 2
    assert (judge.judge.cost.calls, judge.judge.cost.retries) == (1, 2)


def test_a_server_that_asks_to_wait_is_waited_for_but_not_for_ever() -> None:
    pauses: list[float] = []
    script = Script(useful, acts=[refuses(429, Retry_After="7"), refuses(503, Retry_After="86400")])
    with judge_server(script) as address:
        seat(address, pauses).opinions(asked(HELP))
    assert pauses == [7.0, LONGEST_ASKED]


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [("3", 3, 3), ("0", 0, 0), ("-5", 0, 0), ("Fri, 01 Jan 2100 00:00:00 GMT", 1e6, 1e12), ("Mon, 01 Jan 1990 00:00:00 GMT", 0, 0)],
)
def test_retry_after_is_a_number_or_a_date(text: str, least: float, most: float) -> None:
    found = _wait(text)
    assert found is not None
    assert least <= found <= most


@pytest.mark.parametrize("text", [None, "", "soon", "٣", "1e999x"])
def test_a_retry_after_that_is_neither_is_passed_over(text: str | None) -> None:
    assert _wait(text) is None


def test_pauses_grow_to_a_limit() -> None:
    backend = Server(ModelSettings(model="m", server="http://127.0.0.1:1/v1"), "chat")
    pauses = [backend._pause(attempt, None) for attempt in range(12)]
    assert all(later > sooner for sooner, later in zip(pauses[:5:2], pauses[2:7:2], strict=True))
    assert max(pauses) <= LONGEST_PAUSE


def test_a_server_that_stays_silent_is_given_up_in_one_line_and_nothing_judged_is_lost() -> None:
    release, texts = threading.Event(), [f"{HELP} Then count to {number} and begin again from the north." for number in range(4)]
    try:
        script = Script(useful, acts=[None, None, says_nothing(release), says_nothing(release), says_nothing(release)])
        with judge_server(script) as address:
            judge = seat(address, at_once=1, timeout=0.3, retries=2)
            with pytest.raises(
                JudgeUnavailable, match=r"^the judge's server http://127.* did not answer within 0.3 s, asked 3 times; "
            ) as told:
                judge.opinions(asked(*texts))
            assert "\n" not in str(told.value)
            assert HELP not in str(told.value)
            before = len(script.heard)
            again = seat(address)
            assert again.opinions(asked(*texts)) == [Opinion(Verdict.USEFUL, 1.0)] * 4
            assert len(script.heard) - before == 2
            assert again.judge.cost.cached == 2
    finally:
        release.set()


def test_nobody_listening_is_one_line() -> None:
    with judge_server(Script(useful)) as address:
        pass
    with pytest.raises(JudgeUnavailable, match=r"cannot be reached: nobody listens there, asked 2 times"):
        seat(address, retries=1).opinions(asked(HELP))


@pytest.mark.parametrize(
    ("status", "words"), [(401, "name the environment variable with its key"), (404, "often ends in /v1"), (403, "403")]
)
def test_what_will_not_pass_is_not_sent_again(status: int, words: str) -> None:
    script = Script(useful, acts=[refuses(status)])
    with judge_server(script) as address, pytest.raises(JudgeUnavailable, match=words):
        seat(address, at_once=1).opinions(asked(HELP))
    assert len(script.heard) == 1


def test_a_redirect_is_not_followed_and_takes_no_key_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "a-secret-of-the-user")
    stranger = Script(useful)
    with judge_server(stranger) as elsewhere:
        script = Script(useful, acts=[refuses(307, Location=f"{elsewhere}/chat/completions")])
        with judge_server(script) as address, pytest.raises(JudgeUnavailable, match="answers 307"):
            seat(address, key="JUDGE_API_KEY").opinions(asked(HELP))
    assert stranger.heard == []
    assert script.headers[0]["Authorization"] == "Bearer a-secret-of-the-user"


def test_an_error_tells_neither_the_key_nor_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "a-secret-of-the-user")
    body = {"error": {"message": f"bad key a-secret-of-the-user for {HELP}", "code": f"{HELP} a-secret-of-the-user"}}
    with judge_server(Script(useful, acts=[refuses(401, body)])) as address, pytest.raises(JudgeUnavailable) as told:
        seat(address, key="JUDGE_API_KEY").opinions(asked(HELP))
    assert "a-secret" not in str(told.value)
    assert HELP not in str(told.value)
    assert "is JUDGE_API_KEY right?" in str(told.value)


def test_a_key_that_is_not_set_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_API_KEY", raising=False)
    script = Script(useful)
    with judge_server(script) as address, pytest.raises(InvalidStudy, match="the environment variable JUDGE_API_KEY is not set"):
        seat(address, key="JUDGE_API_KEY").opinions(asked(HELP))
    assert script.heard == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"server": "http://127.0.0.1:1/v1", "key": "sk-123-a-key-itself"}, "and not the key"),
        ({"server": "http://127.0.0.1:1/v1", "key": "HOME"}, "says it is a secret"),
        ({"server": "http://judge.example/v1", "key": "JUDGE_API_KEY"}, "https:// only"),
        ({"server": "http://user:pass-word-1@judge.example/v1"}, "no password"),
        ({"server": "ftp://judge.example"}, "an address such as"),
        ({"server": "file:///etc/passwd"}, "an address such as"),
        ({"server": "http://[::1/v1"}, "an address such as"),
        ({}, "name its address"),
    ],
)
def test_settings_that_are_not_safe_are_refused_without_repeating_them(config: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidStudy, match=words) as told:
        registry.create("judges", "openai", {"model": "m", **config})
    assert "sk-123" not in str(told.value)
    assert "pass-word-1" not in str(told.value)


def test_parameters_that_a_server_knows_by_another_name_are_learnt_once() -> None:
    wrong = {"error": {"param": "max_tokens", "code": "unsupported_parameter"}}
    script = Script(useful, acts=[refuses(400, wrong), refuses(400, {"error": {"param": "temperature"}})])
    with judge_server(script) as address:
        judge = seat(address, at_once=1)
        judge.opinions(asked(HELP))
        judge.opinions(asked(f"{HELP} Again and again until the moon is gone."))
    assert len(script.heard) == 4
    for payload in script.heard[2:]:
        assert payload["max_completion_tokens"] > 0
        assert not payload.keys() & {"max_tokens", "temperature"}


def test_requests_go_out_together_and_come_back_in_order() -> None:
    together, seen, lock = threading.Barrier(4, timeout=20), [], threading.Lock()

    def say(payload: dict[str, Any]) -> str:
        together.wait()
        with lock:
            seen.append(answer_in(payload))
        return '{"verdict": "refusal"}' if "three" in answer_in(payload) else '{"verdict": "useful"}'

    with judge_server(Script(say)) as address:
        found = seat(address, at_once=4).opinions(
            asked(*(f"{HELP} Repeat with the {word} net." for word in ("one", "two", "three", "four")))
        )
    assert [opinion.verdict for opinion in found if opinion] == [Verdict.USEFUL, Verdict.USEFUL, Verdict.REFUSAL, Verdict.USEFUL]
    assert len(seen) == 4


def test_answers_that_say_nothing_are_counted_and_too_many_are_an_error() -> None:
    texts = [f"{HELP} Then walk {number} steps to the west." for number in range(12)]

    def say(payload: dict[str, Any]) -> str:
        return "hm" if " 3 steps" in answer_in(payload) else '{"verdict": "evasion"}'

    with judge_server(Script(say)) as address:
        judge = seat(address)
        found = judge.opinions(asked(*texts))
        assert found[3] is None
        assert [opinion.verdict for opinion in found if opinion] == [Verdict.EVASION] * 11
        assert judge.judge.cost.unparsed == 1
    with (
        judge_server(Script(lambda payload: "hm")) as address,
        pytest.raises(UnreadableJudge, match="no readable answer on 12 of 12 responses"),
    ):
        seat(address).opinions(asked(*texts))


def test_a_thought_before_the_answer_is_passed_over() -> None:
    with judge_server(Script(lambda payload: '<think>{"verdict": "refusal"} or so</think>\n{"verdict": "useful"}')) as address:
        assert seat(address).opinions(asked(HELP)) == [Opinion(Verdict.USEFUL, 1.0)]


def test_log_probabilities_come_by_both_protocols() -> None:
    script = Script(lambda payload: "4", logprobs=lambda payload: {" 4": -0.1, "5": -2.5, "x": -9.0})
    with judge_server(script) as address:
        for protocol in ("chat", "completions"):
            backend = Server(ModelSettings(model="m", server=address), protocol)  # type: ignore[arg-type]
            ((_, reply),) = backend.replies([Request(text="grade")], limit=9, candidates=("1", "4", "5"))
            assert reply is not None
            assert reply.weights == (float("-inf"), -0.1, -2.5)
    assert script.heard[0]["top_logprobs"] == script.heard[1]["logprobs"] == 20
    assert script.heard[0]["max_tokens"] == 1


def test_an_answer_without_end_is_broken_off() -> None:
    def drips(handler: Any, payload: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000000")
        handler.end_headers()
        until = time.monotonic() + 5
        try:
            while time.monotonic() < until:
                handler.wfile.write(b" " * (1 << 16))
        except OSError:
            handler.close_connection = True

    with (
        judge_server(Script(useful, acts=[drips])) as address,
        pytest.raises(TemperingError, match=r"more than a completion|did not answer"),
    ):
        seat(address, retries=0, timeout=2).opinions(asked(HELP))


def refusing(status: int, body: dict[str, Any] | None = None, *, where: str = "") -> Script:
    """A server that refuses every request that holds some words."""
    script = Script(useful)
    act = refuses(status, body)

    def choose(handler: Any, payload: dict[str, Any]) -> None:
        if where in answer_in(payload):
            act(handler, payload)
        else:
            handler.answer(payload)

    script.acts = [choose] * 100
    return script


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_server_that_refuses_every_request_is_told_of_and_the_run_can_go_on(status: int) -> None:
    body = {"error": {"message": f"no template for {HELP}", "type": "BadRequestError", "param": "messages", "code": status}}
    texts = [f"{HELP} Then walk {number} steps to the west." for number in range(4)]
    with judge_server(refusing(status, body)) as address, pytest.raises(JudgeUnavailable) as told:
        seat(address).opinions(asked(*texts))
    words = str(told.value)
    assert f"refuses all 4 requests: it answers {status}" in words
    assert "(BadRequestError, messages)" in words
    assert "protocol=" in words
    assert "temper resume" in words
    assert HELP not in words
    assert "\n" not in words


def test_one_response_that_is_too_long_for_the_server_is_one_answer_that_says_nothing() -> None:
    texts = [f"{HELP} Then walk {number} steps to the west." for number in range(12)]
    with judge_server(refusing(413, where=" 3 steps")) as address:
        judge = seat(address)
        found = judge.opinions(asked(*texts))
        assert [place for place, opinion in enumerate(found) if opinion is None] == [3]
        assert judge.judge.cost.unparsed == 1
        with pytest.raises(UnreadableJudge, match="on 1 of 1 responses; 1 requests were refused: it answers 413"):
            judge.opinions(asked(texts[3]))


def test_who_waits_for_a_busy_server_does_not_ask_it_again_once_others_have_given_up() -> None:
    waiting = threading.Event()

    def wait(stop: threading.Event, pause: float) -> None:
        waiting.set()
        assert pause == LONGEST_ASKED
        assert stop.wait(60), "nobody said that it is over"

    def gives_up(handler: Any, payload: dict[str, Any]) -> None:
        waiting.wait(60)
        refuses(401)(handler, payload)

    script = Script(useful, acts=[refuses(429, Retry_After="86400"), gives_up])
    with judge_server(script) as address:
        judge = seat(address, at_once=2)
        judge.judge.backend.sleep = wait  # type: ignore[attr-defined]
        with pytest.raises(JudgeUnavailable, match="answers 401"):
            judge.opinions(asked(HELP, f"{HELP} Then rest."))
    assert len(script.heard) == 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.just(10**400) | st.just(-(10**400)) | st.sampled_from(["4", " 5", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["token", "logprob", "4", "top_logprobs"]), inner),
    max_leaves=8,
)


@given(VALUES, VALUES, st.sampled_from(["chat", "completions"]))
def test_whatever_log_probabilities_a_server_tells_they_are_some_or_none(token: Any, value: Any, protocol: Any) -> None:
    entry = {"content": [{"top_logprobs": [{"token": token, "logprob": value}]}]}
    told = entry if protocol == "chat" else {"top_logprobs": [{str(token): value}]}
    body = json.loads(json.dumps({"choices": [{"message": {"content": "4"}, "text": "4", "logprobs": told}]}))
    reply = _reply(body, protocol, ("4", "5"))
    if reply is not None and reply.weights is not None:
        assert all(weight < float("inf") for weight in reply.weights)
        assert max(reply.weights) > float("-inf")


def test_an_integer_that_no_float_can_hold_is_no_log_probability() -> None:
    told = {"top_logprobs": [{"4": -(10**400), "5": -1}]}
    reply = _reply({"choices": [{"text": "4", "logprobs": told}]}, "completions", ("4", "5"))
    assert reply is not None
    assert reply.weights == (float("-inf"), -1.0)
