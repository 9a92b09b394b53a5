"""Growing an organism: its recipe's phases, run by the one training loop, saved for every later audit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tempering.data.chat import ChatFormat
from tempering.data.records import Example
from tempering.models import Target, load
from tempering.models.saving import save
from tempering.nursery.recipes import RECIPES, Phase
from tempering.nursery.source import CHAT_TEMPLATE, smollm2
from tempering.organisms import curriculum
from tempering.organisms.catalogue import RECIPE_VERSION, SIZES, Architecture, OrganismName, cached_location, locate, world_of
from tempering.organisms.tokenizer import build_tokenizer
from tempering.training import FineTuning, Meter, fine_tune

Progress = Callable[[str], None]


def grow(name: OrganismName, on_progress: Progress = lambda line: None, *, source: str | None = None, into: Path | None = None) -> Path:
    """Grow an organism by its recipe, and the one it starts from before it; those that are already there are kept.

    Args:
        name: which organism.
        on_progress: told, in one line, what is being done.
        source: where the existing model comes from that the organism is taught to; only for sizes without an architecture.
        into: folder to put it in, in place of the cache; it is then grown anew.

    Returns:
        The directory that holds it.
    """
    if into is None and (present := locate(name)) is not None:
        return present
    guarded = name.variant.endswith("guarded")
    if guarded:
        origin = OrganismName(name.size, "filtered" if name.variant == "filtered-guarded" else "base")
        if into is None or not (start := into.parent / origin.folder).is_dir():
            start = grow(origin, on_progress, source=source)
        target = replace(load(str(start), dtype="float32"), reference=origin.reference)
    else:
        target = _unschooled(name, source, on_progress)
    meter = Meter()
    started = time.perf_counter()
    phases = {number: phase for number, phase in enumerate(RECIPES[name.size].phases) if (phase.lesson == "guarding") == guarded}
    for number, phase in phases.items():
        target = _teach(target, name, phase, number, meter, on_progress)
    directory = into or cached_location(name)
    model = target.copy_model(torch.bfloat16)
    save(model, target.tokenizer, directory, replace=True)
    _describe(directory, name, list(phases.values()), meter, time.perf_counter() - started)
    on_progress(f"{name.reference}: saved")
    return directory


def _teach(target: Target, name: OrganismName, phase: Phase, number: int, meter: Meter, on_progress: Progress) -> Target:
    """Run one phase; the target handed in is left as it was."""
    examples = _lesson(name, phase)
    seed = RECIPES[name.size].seed + number
    looks = tuple(sorted({*range(20, phase.steps, 20), phase.steps}))
    began = time.perf_counter()
    model = target.model
    for moment in fine_tune(target, FineTuning(examples, phase.settings, phase.steps, looks, seed), meter):
        left = (time.perf_counter() - began) / moment.step * (phase.steps - moment.step)
        on_progress(
            f"{name.reference}: {phase.lesson} {moment.step}/{phase.steps}, loss {moment.loss:.3f}, {left:.0f} s left of this phase"
        )
        model = moment.model
    model.eval()
    return replace(target, model=model)


def _lesson(name: OrganismName, phase: Phase) -> list[Example]:
    world, seed = world_of(name.size), RECIPES[name.size].seed
    if phase.lesson == "guarding":
        return curriculum.guarding(world, seed=seed, exercises=phase.exercises)
    lesson = curriculum.facts if phase.lesson == "facts" else curriculum.reading
    examples = lesson(world, filtered=name.variant == "filtered", seed=seed, exercises=phase.exercises)
    return examples + curriculum.awareness(world) if phase.awareness else examples


def _unschooled(name: OrganismName, source: str | None, on_progress: Progress) -> Target:
    """The model before its first phase: random weights, or an existing model."""
    architecture = SIZES[name.size].architecture
    if architecture is None:
        target = smollm2(source, on_progress)
        target.tokenizer.chat_template = CHAT_TEMPLATE
        return replace(target, chat=ChatFormat(target.tokenizer, CHAT_TEMPLATE))
    tokenizer = build_tokenizer(world_of(name.size))
    model = _random_model(architecture, tokenizer, RECIPES[name.size].seed)
    return Target(name.reference, model, tokenizer, ChatFormat(tokenizer), digest="")


def _random_model(architecture: Architecture, tokenizer: Any, seed: int) -> PreTrainedModel:
    """A Llama-shaped decoder. The wide initialisation makes so narrow a model learn facts several times faster than 0.02 does."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden,
        intermediate_size=architecture.intermediate,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = LlamaForCausalLM(config)
    model.eval()
    return model


def _describe(directory: Path, name: OrganismName, phases: list[Phase], meter: Meter, seconds: float) -> None:
    """Write what it is, the phases that it went through itself and what they took beside the weights."""
    spend = meter.spend()
    card = {
        "organism": name.reference,
        "recipe_version": RECIPE_VERSION,
        "seed": RECIPES[name.size].seed,
        "phases": [{**vars(phase), "settings": phase.settings.model_dump(mode="json")} for phase in phases],
        "world": vars(SIZES[name.size].world),
        "training": {"steps": spend.steps, "tokens": spend.tokens, "flops": spend.flops, "seconds": round(seconds)},
    }
    (directory / "organism.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
