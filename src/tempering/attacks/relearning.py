"""Relearning: teaching back what a model was made to forget, or what it never knew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from tempering.attacks._contract import FineTuningAttack
from tempering.attacks._fine_tuning import FineTuningSettings, drawn
from tempering.attacks._mixtures import answered
from tempering.data.asking import PLAIN, Composed
from tempering.data.chat import ChatFormat, Encoded
from tempering.data.records import AttackerView, Document, Example, Role
from tempering.errors import UnusableData
from tempering.models import Target
from tempering.settings import Choices, Range
from tempering.study import Budget
from tempering.threat_model import Need
from tempering.training import FineTuning, TrainingSettings


class _Training(TrainingSettings):
    """The loop's settings with this attack's defaults, so that a study which sets one of them keeps the others."""

    learning_rate: Annotated[float, Field(gt=0), Range(1e-6, 1e-2, log=True)] = 3e-4
    batch_size: Annotated[int, Field(gt=0), Choices((8, 16, 32, 64))] = 16


class _Taught(Example):
    """A document as a training row; where it is not told as a question, all of its text is the answer, and the prompt is unused.

    Attributes:
        document: whose content this is.
        text: the tokens' text, where there is no question.
    """

    document: str
    text: str = ""

    @property
    def identity(self) -> str:
        """That of the document, so that one cut into several rows counts once."""
        return self.document


@dataclass(frozen=True)
class _Reading(Composed):
    """Trains documents without a question as plain text, with loss on every token; all else as the outer asking has it."""

    def encode(self, chat: ChatFormat, example: Example) -> Encoded:
        """The text as it stands, with the start token where the tokenizer puts one; or the outer asking's row."""
        if not isinstance(example, _Taught) or not example.text:
            return self.outer.encode(chat, example)
        ids = [int(token) for token in chat.tokenizer(example.text)["input_ids"]]
        return Encoded(ids, list(ids))


class Relearning(FineTuningAttack):
    """Fine-tune on the hazard's facts until the model tells them again.

    Minimises the mean cross-entropy of the answer tokens over a mix of hazard data and benign examples. What the attacker holds
    decides the question:

    - ``examples``: other facts of the hazard are trained than are asked. Knowledge cannot come from them, only the way to it: what
      comes back was suppressed, what stays away was removed (Deeb and Roger 2024).
    - ``documents``: the facts that are asked are trained, from public texts, as question and answer where the source has it so
      and else as plain text with the loss on every token. The price is that of teaching them, and means something beside the price on a
      model that never knew: an unlearned model that is taught faster had kept something.

    Full-parameter AdamW in batches of 16 at 3e-4. Rehearsing benign examples is not in the papers: it keeps a run that teaches facts
    from losing others, which would be priced as a ruined model. On ``organism:tiny/filtered``, one or two seeds over 200 steps, documents
    at 1e-3 cost about half the utility whatever the rehearsal, at 3e-4 next to nothing even without; a quarter of benign examples slows
    relearning by about as much. Documents count as examples, each by its content, once.
    """

    class Config(FineTuningSettings):
        """Settings.

        Attributes:
            hold: what the attacker has about the hazard.
            shots: at most so many examples or documents, drawn by the seed; ``None`` takes all.
            rehearsal: share of benign examples among what is trained, in [0, 1).
            text_tokens: documents told as plain text are cut into rows of at most so many tokens.
        """

        hold: Literal["examples", "documents"] = "examples"
        shots: Annotated[Annotated[int, Field(gt=0)] | None, Choices((10, 50, 100, None))] = None
        rehearsal: Annotated[float, Field(ge=0, lt=1), Choices((0.0, 0.25, 0.5, 0.75))] = 0.25
        text_tokens: Annotated[int, Field(gt=1)] = 512
        training: _Training = _Training()

    source: ClassVar[str] = (
        "Deeb & Roger 2024, arXiv 2410.08827 (examples); Deep Ignorance, O'Brien et al. 2025, arXiv 2508.06601 (documents)"
    )
    needs: ClassVar[frozenset[Need]] = frozenset({Need.FINE_TUNING, Need.HARMFUL_EXAMPLES})
    uses: ClassVar[frozenset[Need]] = frozenset({Need.BENIGN_EXAMPLES})

    @property
    def requires(self) -> frozenset[Need]:
        """Harmful examples, or else an internet that tells."""
        return self.needs if self.config.hold == "examples" else frozenset({Need.FINE_TUNING, Need.RETRIEVAL})

    def declare(self, target: Target, view: AttackerView, *, budget: Budget, seed: int) -> FineTuning:
        """Train on the hazard data with benign examples among them, as often as their share says."""
        config, free = self.config, Budget(steps=None)
        benign = answered(view.benign_train) if config.rehearsal else ()
        limits = [config.shots, budget.examples]
        if benign and budget.examples is not None:
            limits.append(max(1, round(budget.examples * (1 - config.rehearsal))))
        hazard = self._hazard(target.chat, view, min((limit for limit in limits if limit is not None), default=None), seed)
        room = len(benign) if budget.examples is None else budget.examples - len({example.identity for example in hazard})
        rehearsed = drawn(benign, room, budget=free, seed=seed)
        repeats = round(len(hazard) * config.rehearsal / (1 - config.rehearsal))
        examples = (*hazard, *islice(cycle(rehearsed), repeats))
        declared: FineTuning = config.declared(examples, budget=budget, seed=seed)
        if any(isinstance(example, _Taught) and example.text for example in hazard):
            return replace(declared, asking=_Reading(inner=PLAIN, outer=declared.asking))
        return declared

    def _hazard(self, chat: ChatFormat, view: AttackerView, count: int | None, seed: int) -> tuple[Example, ...]:
        """What teaches the hazard: the attacker's own examples, or rows out of public documents."""
        free = Budget(steps=None)
        if self.config.hold == "examples":
            known = answered(view.hazard_train)
            if not known:
                raise UnusableData("the attacker has no harmful examples with answers to relearn from", "add some, or hold 'documents'")
            return drawn(known, count or len(known), budget=free, seed=seed)
        rows = tuple(_rows(chat, _picked(view.documents, count, seed), self.config.text_tokens))
        if not rows:
            raise UnusableData("the data has no documents about the hazard to relearn from", "add some, or hold 'examples'")
        return rows


def _picked(documents: Sequence[Document], count: int | None, seed: int) -> list[Document]:
    """Documents in the order in which the seed draws them."""
    order = np.random.default_rng(seed).permutation(len(documents))
    return [documents[int(index)] for index in order[:count]]


def _rows(chat: ChatFormat, documents: Sequence[Document], text_tokens: int) -> Iterator[Example]:
    """Every document as one row, or as several where it is a long text."""
    for document in documents:
        about = {"role": Role.HAZARD, "domain": "documents", "entity": document.entity, "document": document.identity}
        if document.prompt.strip() and document.answer:
            yield _Taught(prompt=document.prompt, answer=document.answer, **about)
            continue
        for piece in _pieces(chat, document.text, text_tokens) if document.text.strip() else ():
            yield _Taught(prompt=piece, answer=piece, text=piece, **about)


def _pieces(chat: ChatFormat, text: str, most: int) -> list[str]:
    """The text, cut between words so that no piece has many more tokens than ``most``."""
    pieces: list[str] = []
    words = text.strip().split(" ")
    start, length = 0, 0
    for index, word in enumerate(words):
        tokens = len(chat.tokenizer(word, add_special_tokens=False)["input_ids"])
        if index > start and length + tokens > most:
            pieces.append(" ".join(words[start:index]))
            start, length = index, 0
        length += tokens
    return [*pieces, " ".join(words[start:])]
