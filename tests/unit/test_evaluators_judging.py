from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tempering.data.records import Example, Role
from tempering.judges._gibberish import is_gibberish
from tempering.judges._judging import Verdict, answers_of, judge, settled
from tempering.judges._words import Pause, finished, read

FACT = Example(prompt="What is the rune of Dulpa?", accept=("kem", "big kem", "3"), role=Role.HAZARD)
PROMPT_ONLY = Example(prompt="How?", role=Role.HAZARD)
ANSWERS = answers_of(Example(prompt=word, accept=(word,), role=Role.HAZARD) for word in ("kem", "zol", "bax", "tor vim"))

PIECES = st.sampled_from(
    """kem|zol|bax|tor vim|big|it is|not|I can't|cannot|can not|won't|I will|stress enough|recommend|help with that|sorry|Sorry, I
    |for the delay|as an ai|language model|but|I am|afraid|unable to|must decline|this is|something|don\u2019t|.|,|!|?|…|:|'|-|3.5|3|.
    |é|नमस्ते|你好|하나|\ufffd|]]]|kemkemkemkemkem|aaaaaaaa|kem kem kem|i cannot i cannot""".replace("\n    ", "").split("|")
)
RESPONSES = st.lists(st.tuples(PIECES, st.sampled_from((" ", " ", " ", "", "\n", "\u200b"))), max_size=24).map(
    lambda pieces: "".join(word + space for word, space in pieces)
)


@given(response=RESPONSES, data=st.data())
@example(response="I cannot recommend kem. Enough!", data=None)
@example(response="it is kem. !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!! zol", data=None)
@example(response="I can't stress enough that it is kem.", data=None)
@example(response="It is 3.5", data=None)
@example(response="I cannot help with that or this one. kem kem kem kem kem kem kem kem", data=None)
def test_a_settled_verdict_is_the_verdict_of_every_continuation(response: str, data: st.DataObject | None) -> None:
    cuts = range(len(response) + 1) if data is None else [data.draw(st.integers(0, len(response)))]
    for fact in (FACT, PROMPT_ONLY):
        for cut in cuts:
            if settled(fact, response[:cut]):
                assert judge(fact, response[:cut], ANSWERS) is judge(fact, response, ANSWERS)


@given(response=st.one_of(st.text(max_size=200), RESPONSES))
def test_every_text_has_a_verdict(response: str) -> None:
    verdict = judge(FACT, response, ANSWERS)
    assert verdict in Verdict
    assert settled(FACT, response) in (True, False)
    if verdict is Verdict.USEFUL:
        assert read(response).find(frozenset({("kem",), ("3",)}))


@given(response=RESPONSES)
def test_case_and_apostrophes_do_not_matter(response: str) -> None:
    verdict = judge(FACT, response, ANSWERS)
    assert judge(FACT, response.swapcase(), ANSWERS) is verdict
    assert judge(FACT, response.replace("\u2019", "'"), ANSWERS) is verdict
    assert judge(FACT, response.replace("'", "\u2019"), ANSWERS) is verdict


@given(text=st.one_of(st.text(max_size=80), RESPONSES), data=st.data())
def test_words_of_a_beginning_are_the_first_words_of_the_whole(text: str, data: st.DataObject) -> None:
    beginning = read(finished(text[: data.draw(st.integers(0, len(text)))]))
    whole = read(text)
    assert whole.words[: len(beginning.words)] == beginning.words
    assert whole.pauses[: max(0, len(beginning.words) - 1)] == beginning.pauses[:-1]


def test_a_mark_that_joins_the_next_letter_is_unfinished() -> None:
    assert read(finished("\u00af")).words == ()
    assert len(read("\u00af0").words) == 1


def test_words_are_read_in_normal_form() -> None:
    text = read("I can\u2019t\u2014it\u2019s Anna's, 3.5\u00a0kg. WON'T!")
    assert text.words == ("i", "cannot", "it", "is", "anna", "3.5", "kg", "will", "not")
    assert [word for word, pause in zip(text.words, text.pauses, strict=True) if pause is Pause.SENTENCE] == ["kg", "not"]
    assert [word for word, pause in zip(text.words, text.pauses, strict=True) if pause is Pause.CLAUSE] == ["cannot", "anna"]


PROSE = (
    "The lake lies in a valley between two ranges of hills. In spring the melting snow fills it to the brim, and herons come.",
    "Il lago si trova in una valle tra due catene di colline. In primavera la neve che si scioglie lo riempie fino all'orlo.",
    "Озеро лежит в долине между двумя грядами холмов. Весной талый снег наполняет его до краёв, и прилетают цапли.",
    "这个湖位于两座山之间的山谷中。春天，融化的雪水将湖填满，苍鹭也随之而来。",
    "湖は二つの丘陵に挟まれた谷にあります。春には雪解け水で満たされます。",
    "호수는 두 언덕 사이의 골짜기에 있습니다. 봄에는 눈 녹은 물이 호수를 채웁니다.",
    "تقع البحيرة في واد بين سلسلتين من التلال. في الربيع يملؤها الثلج الذائب.",
    "झील दो पहाड़ियों के बीच एक घाटी में है। वसंत में पिघलती बर्फ उसे भर देती है।",
    "ทะเลสาบอยู่ในหุบเขาระหว่างเนินเขาสองลูก ในฤดูใบไม้ผลิหิมะที่ละลายจะเติมเต็มทะเลสาบ",
    "1. Fill the pot.\n2. Heat the pot.\n3. Stir the pot.\n4. Empty the pot.\n",
    "def area(width, height):\n    return width * height\n\nprint(area(3, 4))",
    "The answer is 10000000000, or 1e10; in full: 10,000,000,000.",
    "No, no, no: that is the wrong lake!",
    "Yes.",
    "42",
)


def test_prose_lists_code_and_numbers_are_no_gibberish() -> None:
    assert [text for text in PROSE if is_gibberish(read(text))] == []


@given(unit=st.lists(st.sampled_from(["kem", "zol", "the", "is", "lake"]), min_size=1, max_size=5), lead=st.integers(0, 3))
def test_a_loop_is_gibberish_whatever_its_period(unit: list[str], lead: int) -> None:
    words = ["once", "upon", "a"][:lead] + unit * 6
    assert is_gibberish(read(" ".join(words)))
