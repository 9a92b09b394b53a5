"""A judge's model whose weights lie on this machine: greedy answers, in batches, counted in FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tempering import confined
from tempering.errors import UnusableModel
from tempering.judges._requests import Reply, Request
from tempering.judges._settings import ModelSettings
from tempering.models.decoding import GreedyDecoder, decodable
from tempering.models.loading import load_plain
from tempering.training.flops import FlopCount

_RENDER: dict[str, Any] = {"add_generation_prompt": True, "enable_thinking": False, "date_string": "26 Jul 2024"}


class LocalModel:
    """Weights on this machine; loaded when they are first needed."""

    def __init__(self, settings: ModelSettings) -> None:
        """Load nothing yet."""
        self._settings = settings
        self._model: PreTrainedModel | None = None
        self._tokenizer: PreTrainedTokenizerBase
        self._digest = ""
        self._count: FlopCount | None = None
        self.retries = 0
        self.flops = 0.0
        self.refusals = 0
        self.refusal = ""

    def identity(self) -> dict[str, Any]:
        """The digest of its weights, its type, and its chat template."""
        model = self._loaded()
        template = self._tokenizer.chat_template
        return {"weights": self._digest, "dtype": str(model.dtype).removeprefix("torch."), "template": template or None}

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take."""
        return sum(weight.numel() * weight.element_size() for weight in self._loaded().parameters())

    @torch.no_grad()
    def replies(self, requests: Sequence[Request], *, limit: int, candidates: Sequence[str] = ()) -> Iterator[tuple[int, Reply | None]]:
        """Ask, the shortest first, so that little of a batch is padding."""
        model = self._loaded()
        prompts = [self._tokens(request) for request in requests]
        window = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        fitting = [place for place, prompt in enumerate(prompts) if not window or len(prompt) + limit <= window]
        yield from ((place, None) for place in sorted(set(range(len(prompts))) - set(fitting)))
        fitting.sort(key=lambda place: len(prompts[place]))
        size = self._settings.batch_size
        for batch in (fitting[start : start + size] for start in range(0, len(fitting), size)):
            with torch.autocast(model.device.type, enabled=False):  # whoever is examined may be computed in another type
                made = self._read([prompts[place] for place in batch], limit, candidates)
            yield from zip(batch, made, strict=True)

    def _read(self, prompts: Sequence[list[int]], limit: int, candidates: Sequence[str]) -> list[Reply]:
        """The replies to a batch of prompts."""
        model = self._loaded()
        if not decodable(model):
            made = [self._by_library(prompt, limit, candidates) for prompt in prompts]
        elif candidates:
            logits = self._decoder(prompts).first(range(len(prompts))).log_softmax(-1)[:, self._ids_of(candidates)]
            made = [
                Reply(weights=tuple(row.tolist()), tokens_in=len(prompt), tokens_out=1) for row, prompt in zip(logits, prompts, strict=True)
            ]
        else:
            answers, _ = self._decoder(prompts).answers(range(len(prompts)), limit, self._ends())
            made = [
                Reply(self._text(answer.tokens), tokens_in=len(prompt), tokens_out=answer.generated)
                for answer, prompt in zip(answers, prompts, strict=True)
            ]
        assert self._count is not None
        read = [reply.tokens_in + max(0, reply.tokens_out - 1) for reply in made]  # the last token is not read again
        self.flops += self._count.forward(read, sum(reply.tokens_out for reply in made))
        return made

    def _by_library(self, prompt: list[int], limit: int, candidates: Sequence[str]) -> Reply:
        """One prompt at a time, so that a model whose layers forget has no padding to remember."""
        model: Any = self._loaded()
        ids = torch.tensor([prompt], device=model.device)
        if candidates:
            weights = model(input_ids=ids).logits[0, -1].float().log_softmax(-1)[self._ids_of(candidates)]
            return Reply(weights=tuple(weights.tolist()), tokens_in=len(prompt), tokens_out=1)
        configuration = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=limit, eos_token_id=self._ends(), pad_token_id=self._ends()[0]
        )
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=configuration)[0, len(prompt) :].tolist()
        return Reply(self._text(output), tokens_in=len(prompt), tokens_out=len(output))

    def _decoder(self, prompts: Sequence[list[int]]) -> GreedyDecoder:
        pad = self._tokenizer.pad_token_id
        return GreedyDecoder(self._loaded(), prompts, int(pad if pad is not None else self._ends()[0]))

    def _loaded(self) -> PreTrainedModel:
        if self._model is None:
            found = load_plain(self._settings.model, dtype=self._settings.dtype, device=self._settings.device)
            self._model, self._tokenizer, self._digest = found.model, found.tokenizer, found.digest
            self._count = FlopCount.of(found.model.requires_grad_(False))
        return self._model

    def _tokens(self, request: Request) -> list[int]:
        text, special = request.text, request.special
        if request.messages:
            text, special = self._rendered(request.messages), False
        return [int(token) for token in self._tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]]

    def _rendered(self, messages: Sequence[tuple[str, str]]) -> str:
        template = self._tokenizer.chat_template
        template = template.get("default") if isinstance(template, dict) else template
        name = self._settings.model
        if not template:
            raise UnusableModel(f"the judge's model {name} has no chat template", "take an instruction model, or a server")
        conversation: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in messages]
        settings = {**self._tokenizer.special_tokens_map, **_RENDER}
        try:
            text = confined.render(template, conversation, settings)
            if messages[-1][1].strip() not in text:  # Llama Guard 3 and 4 want content in parts
                parts = [{"role": role, "content": [{"type": "text", "text": content}]} for role, content in messages]
                text = confined.render(template, parts, settings)
        except (confined.Refused, confined.Exceeded) as error:
            raise UnusableModel(f"the chat template of the judge's model {name} cannot be used: {error}", "take another model") from None
        return text

    def _ids_of(self, candidates: Sequence[str]) -> list[int]:
        found: list[Any] = [self._tokenizer.convert_tokens_to_ids(candidate) for candidate in candidates]
        unknown = self._tokenizer.unk_token_id
        if any(token is None or token == unknown for token in found):
            raise UnusableModel(
                f"the judge's model {self._settings.model} has no single token for each of {', '.join(candidates)}",
                "take the model that this judge is made for",
            )
        return [int(token) for token in found]

    def _ends(self) -> list[int]:
        model = self._loaded()
        own = getattr(model.generation_config, "eos_token_id", None)
        named = [*(own if isinstance(own, (list, tuple)) else [own]), self._tokenizer.eos_token_id]
        ends = list(dict.fromkeys(int(token) for token in named if token is not None))
        if not ends:
            raise UnusableModel(f"the judge's model {self._settings.model} has no token that ends an answer", "take another model")
        return ends

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))
