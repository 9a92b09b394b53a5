"""Models from strangers."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from torture.promise import Mutation, Promise, Tally
from torture.promises._forks import Commands, Ended
from torture.promises._hostile_model_list import HOSTILE, WAYS
from torture.promises._hostile_models import GIB, Room, make_sound

MEMORY = 2 * GIB
"""Bytes by which a command may grow: address space, of which a fraction is ever used."""
CPU_S, WALL_S = 60, 240
SEED = 7
AUDITS_SHORT, OTHERS_SHORT = 16, 3
"""Models of the short form that are drawn to come in by ``temper audit PATH``, and by another way."""
ALWAYS = (
    *("pickles: weights as pytorch_model.bin", "template: endless loops", "template: ten gigabytes", "template: cycler"),
    *("GGUF: a million tensors", "file: weights that are a link", "file: a pipe for a configuration", "tokenizer: a gigabyte"),
    *("configuration: 2^40 layers", "configuration: a hundred thousand layers", "adapter: a base on the hub"),
)
"""Tried in the short form whatever is drawn: each mutation lets one of them in."""
REASONS = {
    "pickles": ("pickle",),
    "code": ("code", "architecture", "kernel", "import"),
    "template": ("template",),
    "weights": ("safetensors", "tensor", "weights"),
    "GGUF": ("gguf",),
    "tokenizer": ("token",),
    "file": ("shard", "link", "pipe", "folder", "no file"),
    "configuration": ("config", "layers", "settings"),
    "adapter": ("adapter", "base"),
}
"""Words of which a refusal has one, by what is hostile, where it does not name a file."""
LEAVES_NOTHING: tuple[str, ...] = ()
"""Ways that print what they found and write nothing."""
SLOW = ("adapter: a pattern", "adapter: patterns", "adapter: four hundred", "template: a power", "template: a hundred megabytes")
"""Left to the long form."""


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    """Hand every hostile model over, by every way or by some, and see it refused."""
    sound = make_sound(folder)
    trials = [(name, way) for way in WAYS for name in HOSTILE] if long else _drawn()
    most_cpu, most_memory = 0.0, 0
    with Commands(memory=MEMORY, cpu_s=CPU_S, wall_s=WALL_S) as commands:
        for way in dict.fromkeys(way for _, way in trials):  # a way that takes nothing at all would refuse whatever is hostile
            problem = _taken(commands, way, sound, sound, folder / "sound-here")
            tally.count(not problem, f"a sound model, by temper {way}: {problem}")
        problem = _taken(commands, "audit", sound.parent / "sound.gguf", sound, folder / "sound-here")
        tally.count(not problem, f"a sound GGUF file, by temper audit: {problem}")
        for number, (name, way) in enumerate(trials):
            place = folder / str(number)
            ended, problem = _tried(commands, name, way, sound, place)
            most_cpu, most_memory = max(most_cpu, ended.cpu_s), max(most_memory, ended.grown)
            tally.count(not problem, f"{name}, by temper {way}: {problem}")
            shutil.rmtree(place, ignore_errors=True)
    tally.note("hostile models", len(HOSTILE))
    tally.note("ways in", len(WAYS))
    tally.note("most CPU seconds", round(most_cpu, 1))
    tally.note("most memory, MiB", most_memory >> 20)


def _drawn() -> list[tuple[str, str]]:
    """The models of the short form, and the ways they come in by."""
    draw = random.Random(SEED)
    quick = [name for name in HOSTILE if not name.startswith(SLOW) and name not in ALWAYS]
    others = [(name, way) for name in quick for way in WAYS if way != "audit"]
    return [*((name, "audit") for name in (*ALWAYS, *draw.sample(quick, AUDITS_SHORT))), *draw.sample(others, OTHERS_SHORT)]


def _taken(commands: Commands, way: str, model: Path, sound: Path, place: Path) -> str:
    """What is wrong where a sound model does not come in, within the same limits; ``""`` where it does."""
    place.mkdir()
    arguments = [*WAYS[way](str(model), sound.parent), "--out", "out"]
    ended = commands.temper(*arguments, folder=place, HF_HOME=str(place / "hub"), TEMPERING_CACHE=str(place / "cache"))
    made = (place / "out").is_dir()
    shutil.rmtree(place)
    if ended.code != 0 or ended.timed_out:
        return f"it ended with {ended.code}: {ended.stderr.strip()[-300:]!r}"
    return "" if made or way in LEAVES_NOTHING else "nothing was written"


def _tried(commands: Commands, name: str, way: str, sound: Path, place: Path) -> tuple[Ended, str]:
    """Make one hostile model, hand it over, and say what went wrong; empty where it was refused as it should be."""
    room = Room(place / "model", place / "mark", sound, place / "beside")
    room.beside.mkdir(parents=True)
    (place / "here").mkdir()
    shutil.copytree(sound, room.model)
    made = HOSTILE[name](room)
    model = made if isinstance(made, Path) else room.model
    arguments = [*WAYS[way](str(model), sound.parent), "--out", "out"]
    flags = made if isinstance(made, tuple) and made and isinstance(made[0], str) else ()
    ended = commands.temper(*arguments, *flags, folder=place / "here", HF_HOME=str(place / "hub"), TEMPERING_CACHE=str(place / "cache"))
    return ended, ended.unlike_a_refusal() or _let_in(ended, room, place / "here") or _told(ended, name, model, room)


def _told(ended: Ended, name: str, model: Path, room: Room) -> str:
    """What is wrong with a refusal that names neither the model, nor a file of it, nor what is wrong with it: it may be of anything."""
    line = ended.errors[0].lower()
    places = [str(model), str(room.model), *(path.name for folder in (room.model, room.beside) for path in folder.iterdir())]
    words = [*(place.lower() for place in places), *REASONS[name.partition(":")[0]]]
    return "" if any(word in line for word in words) else f"its refusal names neither a file nor a reason: {ended.errors[0]!r}"


def _let_in(ended: Ended, room: Room, here: Path) -> str:
    if room.mark.exists():
        return "code that came with the model was run"
    if ended.attempts:
        return f"the network was asked: {ended.attempts[0]}"
    if left := sorted(here.iterdir()):
        return f"something was left behind: {left[0].name}"
    if any(letter in ended.stderr + ended.stdout for letter in "\x1b\x07\u202e"):
        return f"a terminal escape: {ended.stderr[-200:]!r}"
    return ""


PROMISE = Promise(
    name="hostile-models",
    group="Nothing let in",
    sentence="A hostile model is refused in one line, by every way in: none of its code runs, nothing outside is read, all is bounded",
    attempt=attempt,
    mutations=(
        Mutation(
            "models/belonging.py",
            "    if not any(place.is_relative_to(home) for home in homes):",
            "    if not homes:",
            "links out of a model's directory are followed",
        ),
        Mutation(
            "models/belonging.py",
            "    if not any(place.is_relative_to(home) for home in homes):",
            "    if homes:",
            "every model is refused, sound ones too",
        ),
        Mutation(
            "models/belonging.py",
            "    if not stat.S_ISREG(about.st_mode):",
            "    if stat.S_ISSOCK(about.st_mode):",
            "a pipe in a model's directory is opened, and waited for",
        ),
        Mutation(
            "models/plausible.py",
            "            return max(_ALWAYS, stored.tensors)",
            "            return _LARGEST",
            "layers are built by what the configuration says, whatever is stored",
        ),
        Mutation(
            "models/gguf_header.py",
            "            if count > MOST_ENTRIES:",
            "            if count < 0:",
            "a GGUF file is believed how many keys it has",
        ),
        Mutation(
            "confined_process.py",
            "        signal.setitimer(signal.ITIMER_PROF, seconds)\n",
            "",
            "a chat template may compute for ever",
        ),
        Mutation(
            "models/inspection.py",
            "    if pickles:\n        return pickle_refusal(pickles, reference)",
            "    if pickles:\n        import torch\n\n        torch.load(directory / pickles[0], weights_only=False)",
            "pickles are loaded",
        ),
        Mutation(
            "models/loading.py",
            "        asked = not trail or hub.is_cached(Path(trail[0]))",
            "        asked = True",
            "an adapter on this machine has its base fetched from the hub",
        ),
    ),
)
