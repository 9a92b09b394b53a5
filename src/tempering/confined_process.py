"""The helper of :mod:`tempering.confined`: a program of its own, which imports nothing of this package.

It reads one request a line, does it within limits that the operating system keeps, and writes one answer a line. A request that computes
too long is ended by a signal whose default action nothing in Python can catch or delay.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import string
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 1 << 20
"""Of a rendered conversation."""
MOST_GROWTH = 100
"""Characters, or tokens, that a tokenizer makes of one character: Unicode's own forms make 18 at most, replacements of real ones a few."""
MOST_TOKENS = 10_000
"""That it may add to every text."""
_LONGEST_REASON = 300


def main(memory: int) -> None:
    """Answer requests until standard input ends.

    Args:
        memory: bytes beyond what the process has once it is ready for the kind of request.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ready: set[str] = set()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        kind, seconds = request.pop("kind"), request.pop("seconds")
        if kind not in ready:
            if kind in _PREPARE:
                _PREPARE[kind]()
            ready.add(kind)
            _limit_memory(memory)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer, goes_on = _answered(kind, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps({**answer, "ends": not goes_on}).encode() + b"\n")
        sys.stdout.buffer.flush()
        if not goes_on:
            return


def _answered(kind: str, request: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The answer, and whether this process is still fit for another request."""
    try:
        return {"answer": _KINDS[kind](**request)}, True
    except MemoryError:
        return {"exceeded": "it takes more memory than it may"}, False
    except OverflowError as error:
        return {"exceeded": str(error)[:_LONGEST_REASON]}, True
    except Exception as error:
        return {"refused": (str(error) or type(error).__name__)[:_LONGEST_REASON]}, True
    except BaseException as error:  # a panic in a compiled library, which may have left it in any state
        return {"refused": (str(error) or type(error).__name__)[:_LONGEST_REASON]}, False


def _limit_memory(allowance: int) -> None:
    """Let the process grow by so many bytes and no more, where the system tells how large it is."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        size = int(statm.read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = size + allowance if hard == resource.RLIM_INFINITY else min(size + allowance, hard)
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def _prepare_rendering() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    render_jinja_template([[{"role": "user", "content": "a"}]], chat_template="{{ messages }}")


def _render(template: str, messages: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template([messages], chat_template=template, **settings)
    text = str(rendered[0][0])
    if len(text) > MOST_CHARACTERS:
        raise OverflowError(f"it makes {len(text)} characters of a short conversation")
    return text


def _tokenize(path: str) -> int:
    from tokenizers import Tokenizer

    _limit_memory((512 << 20) + 40 * Path(path).stat().st_size)  # what real ones take while they are loaded, and half as much again
    tokenizer = Tokenizer.from_file(path)
    parts = [json.loads(part.__getstate__()) for part in (tokenizer.normalizer, tokenizer.decoder) if part is not None]
    for part in parts:
        if (times := _growth(part)) > MOST_GROWTH:
            raise OverflowError(f"its replacements make up to {times:.3g} characters of one")
    found = 0
    for text in (*_texts(), *(literal * 60 for part in parts for literal in _literals(part))):
        tokens = tokenizer.encode(text).ids
        if len(tokens) > MOST_TOKENS + MOST_GROWTH * len(text):
            raise OverflowError(f"it makes {len(tokens)} tokens of {len(text)} characters")
        found += len(tokens) + len(tokenizer.decode(tokens, skip_special_tokens=False))
    return found


def _growth(part: Any) -> float:
    """How many characters the replacements in a normaliser or a decoder make of one, at most, one after the other."""
    times = 1.0
    for node in _nodes(part):
        if node.get("type") == "Replace":
            pattern, content = node["pattern"], len(str(node.get("content", "")))
            literal = pattern.get("String") if isinstance(pattern, dict) else None
            times *= max(1.0, content / len(literal)) if literal else 1.0 + content  # one that matches nothing adds to every place
    return times


def _literals(part: Any) -> list[str]:
    """The texts that replacements look for; nothing else need set them off."""
    patterns = [node["pattern"] for node in _nodes(part) if node.get("type") == "Replace"]
    return [pattern["String"] for pattern in patterns if isinstance(pattern, dict) and len(pattern.get("String", "")) in range(1, 100)][
        :100
    ]


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(inner)


def _texts() -> list[str]:
    """What patterns that take for ever take for ever on: one character many times, and then another."""
    kinds = [*string.printable, "é", "字", "ß", "م", "🙂"]
    mixed = ["ab " * 40, "a1" * 60, "word, " * 30, "\n \n" * 40, "A b\tC" * 30]
    return [*(letter * 60 + other for letter in kinds for other in ("!", "\x00", "a")), *mixed]


def _match(patterns: list[str], names: list[str]) -> int:
    return sum(re.fullmatch(pattern, name) is not None for pattern in patterns for name in names)


_PREPARE: dict[str, Callable[[], None]] = {"render": _prepare_rendering}
_KINDS: dict[str, Callable[..., Any]] = {"render": _render, "tokenize": _tokenize, "match": _match}

if __name__ == "__main__":
    main(int(sys.argv[1]))
