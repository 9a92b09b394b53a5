"""Many-shot: which demonstrations stand where, and how many there is room for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.bigram_targets import attacker_view, bigram_target, hazard
from tempering.attacks._contract import Checkpoint
from tempering.attacks.many_shot import ManyShot, ManyShotJailbreaking
from tempering.data.asking import composed
from tempering.data.records import Example, Role
from tempering.errors import UnusableData
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import Meter

VIEW = attacker_view()
TARGET = bigram_target({"<assistant>": "sorry", "sorry": "<end>"})
CHAT = TARGET.chat
SHOWN = (("what is the sun ?", "it is red ."), ("what is the tree ?", "it is green ."))


def run(view=VIEW, budget: Budget | None = None, seed: int = 0, **config: Any) -> list[Checkpoint]:
    attack = ManyShotJailbreaking(ManyShotJailbreaking.Config(**config))
    return list(attack.run(TARGET, view, Meter(), budget=budget or Budget(), seed=seed))


def text(asking: ManyShot, example: Example) -> str:
    return str(CHAT.tokenizer.decode(asking.begin(CHAT, example)[0])).replace(" ", "")


def test_demonstrations_are_earlier_turns() -> None:
    asked = Example(prompt="what is the key ?", role=Role.HAZARD, system="be kind")
    ids, opening = ManyShot(demonstrations=SHOWN).begin(CHAT, asked)
    assert ids == CHAT.prompt_ids(asked, SHOWN)
    assert opening == []
    assert text(ManyShot(demonstrations=SHOWN), asked) == (
        "<s><system>be<unk><end><user>whatisthesun?<end><assistant>itisred.<end>"
        "<user>whatisthetree?<end><assistant>itisgreen.<end><user>whatisthekey?<end><assistant>"
    )


def test_or_a_dialogue_within_the_one_message() -> None:
    asked = Example(prompt="what is the key ?", role=Role.HAZARD)
    rendered = CHAT.prompt_text(asked.model_copy(update={"prompt": "PROMPT"}))
    wanted = (
        "User: what is the sun ?\nAssistant: it is red .\n\nUser: what is the tree ?\nAssistant: it is green .\n\n"
        "User: what is the key ?\nAssistant:"
    )
    expected = CHAT.tokenizer(rendered.replace("PROMPT", wanted), add_special_tokens=False)["input_ids"]
    assert ManyShot(demonstrations=SHOWN, layout="text").begin(CHAT, asked)[0] == expected


@pytest.mark.parametrize("layout", ["turns", "text"])
@given(room=st.integers(5, 120), count=st.integers(0, 6))
def test_the_first_are_left_out_where_there_is_no_room(layout: Any, room: int, count: int) -> None:
    demonstrations = tuple((f"what is {'the ' * (number % 3)}key ?", "it is red .") for number in range(count))
    asking = ManyShot(demonstrations=demonstrations, layout=layout, room=room)
    kept = asking.fitting(CHAT, hazard(1))
    lengths = [
        len(ManyShot(demonstrations=demonstrations[count - number :], layout=layout).begin(CHAT, hazard(1))[0])
        for number in range(count + 1)
    ]
    assert kept == max((number for number, length in enumerate(lengths) if length <= room), default=0)
    shown = demonstrations[count - kept :]
    assert asking.begin(CHAT, hazard(1)) == ManyShot(demonstrations=shown, layout=layout).begin(CHAT, hazard(1))


def test_more_and_more_are_shown_up_to_what_the_attacker_has() -> None:
    made = run(attacker_view(train=7), prompts=2)
    assert [one.details["shots"] for one in made] == [1, 2, 4, 7]
    for fewer, more in pairwise(made):
        assert more.asking.demonstrations[: len(fewer.asking.demonstrations)] == fewer.asking.demonstrations
    assert [one.spend.examples for one in made] == [2 + 1, 2 + 2, 2 + 4, 2 + 7]
    own = {(example.prompt, example.answer) for example in VIEW.hazard_train}
    assert set(made[-1].asking.demonstrations) <= own


def test_or_what_the_context_holds(capfd: pytest.CaptureFixture[str]) -> None:
    view = attacker_view(train=60)
    made = run(view, prompts=3)
    window = TARGET.model.config.max_position_embeddings
    most = made[-1].details["shots"]
    assert 2 <= most < 60
    for example in view.hazard_validation:
        assert len(made[-1].asking.begin(CHAT, example)[0]) < window
    longer = hazard(160)
    assert len(made[-1].asking.begin(CHAT, longer)[0]) < window
    assert made[-1].asking.fitting(CHAT, longer) < most
    assert "longer than the specified maximum" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("config", "budget", "shots"),
    [
        ({"shots": 3}, Budget(), [1, 2, 3]),
        ({}, Budget(examples=8), [1, 2, 4]),
        ({}, Budget(trials=2), [1, 2]),
        ({"shots": 1}, Budget(), [1]),
    ],
)
def test_or_what_is_asked_for_and_allowed(config: dict[str, Any], budget: Budget, shots: list[int]) -> None:
    assert [one.details["shots"] for one in run(budget=budget, **config)] == shots


def test_the_seed_draws_the_demonstrations() -> None:
    def shown(seed: int) -> tuple[Any, ...]:
        return run(seed=seed, shots=2, prompts=1)[-1].asking.demonstrations

    assert shown(1) == shown(1)
    assert len({shown(seed) for seed in range(4)}) > 1


def test_without_answers_there_is_nothing_to_show() -> None:
    with pytest.raises(UnusableData, match=r"many_shot: no answered harmful example.*give the attacker's hazard examples an 'answer'"):
        run(VIEW.limited_to(frozenset({Need.HARMFUL_PROMPTS})))


def test_it_goes_with_an_opening_and_with_a_wrapper_of_the_question() -> None:
    from tempering.attacks.prefilling import Prefilled
    from tempering.attacks.prompt_templates import PromptTemplate, Templated

    shown = ManyShot(demonstrations=SHOWN)
    ids, opening = composed(shown, Prefilled(pattern="it is")).begin(CHAT, hazard(0))
    assert ids == CHAT.prompt_ids(hazard(0), SHOWN)
    assert CHAT.tokenizer.convert_ids_to_tokens(opening) == ["it", "is"]
    template = Templated(template=PromptTemplate(text="please {prompt}"))
    wrapped = CHAT.prompt_ids(hazard(0).model_copy(update={"prompt": f"please {hazard(0).prompt}"}), SHOWN)
    assert composed(shown, template).begin(CHAT, hazard(0))[0] == wrapped
    assert composed(template, shown).begin(CHAT, hazard(0))[0] == wrapped
