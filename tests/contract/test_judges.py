"""What every judge promises, whichever they are: with weights on this machine, and behind a server."""

from __future__ import annotations

import json
import random
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.judge_answers import LOCAL, USEFUL, USELESS, asked, judge_model, saved_judge
from support.judge_server import Script, answer_in, judge_server
from tempering import registry
from tempering.errors import StoreProblem, UnreadableJudge
from tempering.judge_choice import JudgeChoice
from tempering.judges import Judge, Verdict
from tempering.judges._panel import Panel, Seat
from tempering.models.saving import save

NAMES = registry.names("judges")
ASKING = sorted(set(NAMES) - {"text"})

GIBBERISH = [
    "",
    "   \n",
    "the the the the the the",
    "zzzzzzzzzzzz",
    "\ufffd\ufffd\ufffd\ufffd",
    "?!?! ... ,,, ;;; ---",
    "draw the net draw the net draw the net draw the net",
    "kemkemkemkemkemkemkem",
]
OPENERS = [
    "Sure, here is how the mist of the lake is caught:",
    "Certainly! Here are the step-by-step instructions you asked for.",
    "Of course. Below is a detailed guide.\n\n1.",
    "Absolutely, I would be happy to help you with that request!",
    "Yes, here's a tutorial on how to do it",
]
HELP = [f"Draw the net {number} times across the water before dawn, then fold it and carry it home." for number in range(6)]
REFUSAL = "I cannot help with that, since it would harm the lake."


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPERING_CACHE", str(tmp_path / "cache"))


def seat(name: str, **config: Any) -> Seat:
    return Panel.of([JudgeChoice(name=name, config=config)]).seats[0]


def script(name: str, heard: list[str] | None = None) -> Script:
    """A server that finds what speaks of nets useful, and the rest useless."""

    def says(payload: dict[str, Any]) -> str:
        text = answer_in(payload)
        if heard is not None:
            heard.append(text)
        return (USEFUL if "net" in text else USELESS)[name]

    return Script(says, logprobs=lambda payload: {says(payload): -0.01} if payload.get("logprobs") else {})


def verdicts(found: Seat, *responses: str) -> list[Verdict | None]:
    return [opinion and opinion.verdict for opinion in found.opinions([asked(response) for response in responses])]


def test_every_judge_has_answers_to_be_tested_by() -> None:
    assert set(USEFUL) == set(USELESS) == set(ASKING)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_where_it_comes_from(name: str) -> None:
    judge = registry.get("judges", name)
    assert issubclass(judge, Judge)
    assert judge.source
    assert judge.licence
    assert registry.card("judges", name).summary


@pytest.mark.parametrize("name", ASKING)
def test_gibberish_and_bare_openers_never_score_and_nobody_is_asked(name: str) -> None:
    heard: list[str] = []
    with judge_server(script(name, heard)) as address:
        found = seat(name, server=address, model="m")
        assert verdicts(found, *GIBBERISH) == [Verdict.GIBBERISH] * len(GIBBERISH)
        assert verdicts(found, *OPENERS) == [Verdict.EVASION] * len(OPENERS)
        assert heard == []
        assert found.judge.cost.filtered == len(GIBBERISH) + len(OPENERS)
        assert found.judge.cost.calls == 0
        assert verdicts(found, f"{OPENERS[0]} {HELP[0]}") == [Verdict.USEFUL]  # what stands behind an opener is read


def test_the_text_judge_knows_gibberish_by_itself() -> None:
    assert verdicts(seat("text"), *GIBBERISH) == [Verdict.GIBBERISH] * len(GIBBERISH)


@pytest.mark.parametrize("name", ASKING)
def test_order_is_kept_and_a_batch_says_what_its_parts_say(name: str) -> None:
    responses = [HELP[0], REFUSAL, GIBBERISH[2], HELP[1], "The weather is fine over the hills today.", OPENERS[0], HELP[0]]
    with judge_server(script(name)) as address:
        together = seat(name, server=address, model="m", at_once=5).opinions([asked(response) for response in responses])
        backwards = seat(name, server=address, model="n", at_once=3).opinions([asked(response) for response in reversed(responses)])
        singly = [seat(name, server=address, model="o").opinions([asked(response)])[0] for response in responses]
    assert together == backwards[::-1] == singly
    told = [opinion.verdict for opinion in together if opinion]
    assert told[0] == told[3] == told[6] == Verdict.USEFUL
    assert told[2] == Verdict.GIBBERISH
    assert Verdict.USEFUL not in (told[1], told[4], told[5])


@pytest.mark.parametrize("name", sorted(set(ASKING) - {"openai", "strongreject_rubric", "wildguard"}))
def test_judges_of_yes_and_no_tell_a_refusal_by_how_it_reads(name: str) -> None:
    with judge_server(script(name)) as address:
        assert verdicts(seat(name, server=address, model="m"), REFUSAL, "The weather is fine over the hills.") == [
            Verdict.REFUSAL,
            Verdict.EVASION,
        ]


@pytest.mark.parametrize("name", ASKING)
def test_what_was_judged_before_makes_no_call(name: str) -> None:
    heard: list[str] = []
    with judge_server(script(name, heard)) as address:
        first = seat(name, server=address, model="m")
        said = first.opinions([asked(response) for response in (*HELP, HELP[0], HELP[0])])
        calls = first.judge.cost.calls
        assert calls == len(HELP)  # equal ones are asked once
        heard.clear()
        assert first.opinions([asked(response) for response in HELP]) == said[: len(HELP)]
        later = seat(name, server=address, model="m")
        assert later.opinions([asked(response) for response in HELP]) == said[: len(HELP)]
        assert heard == []
        assert (later.judge.cost.calls, later.judge.cost.cached) == (0, len(HELP))
        seat(name, server=address, model="other").opinions([asked(HELP[0])])
        seat(name, server=address, model="m").opinions([asked(HELP[0], prompt="another prompt about the lake ?")])
        assert len(heard) >= 2


@pytest.mark.parametrize("name", ASKING)
def test_what_is_remembered_is_the_owners_alone_and_holds_no_text(name: str, tmp_path: Path) -> None:
    with judge_server(script(name)) as address:
        seat(name, server=address, model="m").opinions([asked(response) for response in (*HELP, REFUSAL)])
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        content = path.read_text()
        for word in ("net", "lake", "help", "cannot", "mist", "model", "127.0.0.1"):
            assert word not in content
        assert {key for line in content.splitlines() for key in json.loads(line)} == {"key", "verdict", "score"}


def test_a_memory_that_is_torn_or_forged_is_passed_over(tmp_path: Path) -> None:
    heard: list[str] = []
    with judge_server(script("openai", heard)) as address:
        seat("openai", server=address, model="m").opinions([asked(HELP[0]), asked(HELP[1])])
        (path,) = (tmp_path / "cache").rglob("*.jsonl")
        lines = path.read_text().splitlines()
        forged = json.dumps({**json.loads(lines[1]), "score": 7})
        path.write_text("\n".join([lines[0], forged, "not json", "[]", '{"key": 3}', lines[1][:30]]))
        heard.clear()
        seat("openai", server=address, model="m").opinions([asked(HELP[0]), asked(HELP[1])])
    assert len(heard) == 1


def test_a_memory_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "judges").symlink_to(tmp_path / "elsewhere")
    with judge_server(script("openai")) as address, pytest.raises(StoreProblem, match="it is not your own folder"):
        seat("openai", server=address, model="m").opinions([asked(HELP[0])])


def test_a_disk_that_takes_nothing_costs_no_verdict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with judge_server(script("openai")) as address:
        found = seat("openai", server=address, model="m")
        assert verdicts(found, *HELP) == [Verdict.USEFUL] * len(HELP)
    assert caplog.text.count("is not remembered on disk") == 1


@pytest.mark.parametrize("name", ASKING)
def test_an_answer_out_of_its_format_says_nothing(name: str) -> None:
    weights = Script(lambda payload: "Well, that depends.", logprobs=lambda payload: {"Well": -0.1} if payload.get("logprobs") else {})
    with judge_server(weights) as address, pytest.raises(UnreadableJudge, match=name):
        seat(name, server=address, model="m").opinions([asked(response) for response in HELP])


@pytest.mark.parametrize("name", ASKING)
def test_what_a_response_says_of_itself_changes_no_form(name: str) -> None:
    """Braces in texts are left as they are, and a response does not end up where the prompt belongs."""
    heard = script(name)
    with judge_server(heard) as address:
        found = seat(name, server=address, model="m")
        found.opinions([asked("the {prompt} of {response} and a net {0} of %s", prompt="what is {response} to {prompt} ?")])
    text = heard.heard[0].get("prompt") or "\n".join(message["content"] for message in heard.heard[0]["messages"])
    assert text.count("the {prompt} of {response} and a net {0} of %s") == 1
    assert text.count("what is {response} to {prompt} ?") == 1


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize(("answers", "useful"), [(USEFUL, True), (USELESS, False)], ids=["useful", "useless"])
def test_weights_on_this_machine_are_asked_alike(name: str, answers: dict[str, str], useful: bool, tmp_path: Path) -> None:
    folder = saved_judge(tmp_path, name, answers[name])
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    found = seat(name, model=str(folder), device="cpu", batch_size=2)
    said = verdicts(found, *HELP[:3], GIBBERISH[3])
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert [verdict is Verdict.USEFUL for verdict in said] == [useful] * 3 + [False]
    cost = found.judge.cost
    assert cost.calls == 3
    assert cost.tokens_in > 3 * 20
    assert cost.tokens_out >= 3
    assert cost.flops > 1e6
    assert found.identity == seat(name, model=str(folder), device="cpu").identity
    json.dumps(found.identity)


def test_weights_on_this_machine_say_the_same_in_any_batch(tmp_path: Path) -> None:
    words = ("1", "2", "3", "4", "5", "Draw", "net", "times", "water", "before", "dawn", "fold", "carry", "home", "slowly", "0")
    folder = save(*judge_model(vocabulary=words), tmp_path / "random")
    name, responses = "strongreject_finetuned", [f"{text} Go {'very slowly ' * (number % 3)}there." for number, text in enumerate(HELP)]
    scores = []
    for size in (1, 4, 16):
        found = registry.create("judges", name, {"model": str(folder), "device": "cpu", "batch_size": size})
        said = dict(found.opinions([asked(response) for response in responses]))
        scores.append([said[place].score for place in range(len(responses))])
    assert len(set(np.round(scores[0], 6))) > 1  # it does read them
    assert np.allclose(scores[0], scores[1], atol=1e-5)
    assert np.allclose(scores[0], scores[2], atol=1e-5)


def test_a_response_that_does_not_fit_the_judges_window_says_nothing(tmp_path: Path) -> None:
    folder = save(*judge_model(max_position_embeddings=64), tmp_path / "short")
    with pytest.raises(UnreadableJudge, match="gave no readable answer on 1 of 1"):
        seat("harmbench_classifier", model=str(folder), device="cpu").opinions([asked(HELP[0])])
