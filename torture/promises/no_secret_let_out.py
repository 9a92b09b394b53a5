"""Secrets of the environment, and the names of user, home and host: planted as canaries, looked for in every byte that comes out."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from torture.promise import Mutation, Promise, Tally
from torture.promises._leaky import WAYS
from torture.promises._toys import toy_fields, toy_folder

SECRET_NAMES = (
    "HF_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN",
    "SSH_AUTH_SOCK", "PGPASSWORD", "DB_PASSWD", "MY_SECRET", "GPG_PASSPHRASE", "GOOGLE_APPLICATION_CREDENTIALS", "SLACK_WEBHOOK_URL",
    "SESSION_COOKIE", "SENTRY_DSN", "api_key", "PRIVATE_PEM",
)  # fmt: skip
LEAKY = Path(__file__).with_name("_leaky.py")
SITE = """
import os, platform, socket
name = os.environ["CANARY_HOST"]
socket.gethostname = lambda: name
platform.node = lambda: name
"""


@dataclass
class _House:
    """A home with canaries, and the environment of whoever lives there.

    Attributes:
        secrets: what may be found nowhere, by the name of its variable.
        names: likewise, of the user, the home and the host.
    """

    folder: Path
    secrets: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.folder / f"home-{self.names['home']}" / "work"

    def temper(self, *words: object, **changes: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "tempering", *map(str, words)]
        environment = {**self.environment, **changes}
        return subprocess.run(command, cwd=self.work, env=environment, capture_output=True, timeout=600, check=False)


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    """Failures of every kind in a house full of canaries."""
    for seed in range(3 if long else 1):
        house = _house(folder / f"{seed}", seed)
        toys = toy_folder(house.work)
        _studies(toys)
        for number, words in enumerate(_commands(long)):
            done = house.temper(*words)
            _look(house, f"seed {seed}, command {number}, temper {' '.join(words)}", done, tally)


def _house(folder: Path, seed: int) -> _House:
    draw = random.Random(seed)

    def canary(kind: str) -> str:
        return kind + "".join(draw.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=20))

    made = _House(folder)
    made.secrets = {name: canary("s") for name in SECRET_NAMES}
    values = dict(made.secrets)
    made.names = {name: canary(name[0]) for name in ("user", "home", "host")}
    values["SSH_AUTH_SOCK"] = f"/tmp/ssh-{made.secrets['SSH_AUTH_SOCK']}/agent.1"
    values["MY_SECRET"] = f'it\'s "{made.secrets["MY_SECRET"]}" \\ and é'
    values["PRIVATE_PEM"] = f"-----BEGIN-----\n{made.secrets['PRIVATE_PEM']}\n-----END-----"
    made.secrets["proxy"] = canary("p")
    values["HTTPS_PROXY"] = f"http://someone:{made.secrets['proxy']}@localhost:1"
    made.work.mkdir(parents=True)
    for name in ("tmp", "site"):
        (folder / name).mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    path = [str(folder / "site"), os.environ.get("PYTHONPATH", ""), *(part for part in sys.path if part)]
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    owner = {"HOME": str(made.work.parent), "USER": made.names["user"], "LOGNAME": made.names["user"], "HOSTNAME": made.names["host"]}
    places = {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": os.pathsep.join(path), "CANARY_HOST": made.names["host"]}
    made.environment = {**kept, **values, **owner, **places, "PYTHONDONTWRITEBYTECODE": "1"}
    return made


def _studies(toys: Path) -> None:
    """Studies with relative paths, as somebody who works in this folder writes them."""
    relative = toy_fields(Path())
    leaky = f"{LEAKY}:Leaky"
    named = [{"name": leaky, "label": way, "config": {"way": way}} for way in (*WAYS, "estimate")]
    studies: dict[str, dict[str, Any]] = {
        "failing": {"attacks": [*named, "full_finetune"]},
        "defect": {"probes": {"prompts": 4, "max_new_tokens": 3, "evaluators": ["harm", "utility", f"{LEAKY}:LeakyEvaluator"]}},
        "undefended": {"defenses": [f"{LEAKY}:LeakyDefense"], "trainability": None},
        "refused": {"attacks": [{"name": leaky, "config": {"refuse": True}}]},
    }
    for name, changes in studies.items():
        (toys / f"{name}.yaml").write_text(yaml.safe_dump({**relative, **changes}), encoding="utf-8")
    (toys / "unimportable.py").write_text("import os\nraise RuntimeError(dict(os.environ))\n", encoding="utf-8")


def _commands(long: bool) -> list[tuple[str, ...]]:
    allowed, one = "--allow-code", ("--workers", "1")
    chosen: list[tuple[str, ...]] = [
        ("run", "failing.yaml", "--out", "failing", *one, allowed),
        ("run", "defect.yaml", "--out", "defect", "--workers", "0", allowed),
    ]
    if long:
        chosen += [
            ("run", "defect.yaml", "--out", "defect", *one, allowed),
            ("run", "undefended.yaml", "--out", "undefended", *one, allowed),
            ("run", "refused.yaml", "--out", "refused", allowed),
            ("plan", "refused.yaml", allowed),
            ("validate", "refused.yaml", allowed),
            ("audit", "guarded", "--data", "data.jsonl", "--attacks", "unimportable.py:X", "--out", "unimportable", allowed),
            ("harden", "guarded", "--data", "data.jsonl", "--defense", f"{LEAKY}:LeakyDefense", "--out", "hard", allowed),
            ("report", "failing"),
            ("card", "failing", "--out", "card"),
            ("export", "failing", "--out", "tables", "--format", "csv"),
            ("resume", "failing", *one, allowed),
            ("plan", "failing.yaml", allowed, "--json"),
            ("ls", "attacks"),
            ("run", "failing.yaml", "--out", "failing-2", "--workers", "2", allowed, "--json"),
            ("audit", "nowhere", "--data", "data.jsonl"),
            ("audit", "guarded", "--data", "missing.jsonl"),
            ("report", "nowhere"),
        ]
    return chosen


def _look(house: _House, case: str, done: subprocess.CompletedProcess[bytes], tally: Tally) -> None:
    """Look for every canary in what was printed, and in every file below the home and in the temporary folder."""
    texts = {"standard output": done.stdout, "standard error": done.stderr, **_files(house)}
    started = b"usage" not in done.stderr.lower() and b"ModuleNotFoundError: No module named 'tempering'" not in done.stderr
    tally.count(started, f"{case}: did not start: {done.stderr[-200:]!r}")
    for name, canary in {**house.secrets, **house.names}.items():
        found = [place for place, text in texts.items() if canary.encode() in text]
        tally.count(not found, f"{case}: {name} stands in {', '.join(found[:3])}")


def _files(house: _House) -> dict[str, bytes]:
    """Every file, as it is and, where it is a table, as what it says."""
    import pyarrow.parquet as parquet

    found = {}
    for path in sorted(path for root in (house.work, house.folder / "tmp") for path in root.rglob("*") if path.is_file()):
        name = str(path.relative_to(house.folder)).replace(f"home-{house.names['home']}", "~")
        found[name] = path.read_bytes()
        if path.suffix == ".parquet":
            found[f"{name} (read)"] = json.dumps(parquet.read_table(path).to_pylist(), default=str, ensure_ascii=False).encode()
    return found


PROMISE = Promise(
    name="no-secret-let-out",
    group="Nothing let out",
    sentence="The values of environment variables whose names say that they are secret, and the names of user, home and host, stand in "
    "no byte that a command prints or stores, whatever an attack fails with.",
    attempt=attempt,
    mutations=(
        Mutation(
            "redaction.py",
            """    line = " ".join(anonymous(text).split())""",
            """    line = " ".join(text.split())""",
            "an attack's error is stored as it is",
        ),
        Mutation(
            "engine/course.py",
            "anonymous(str(value))",
            "str(value)",
            "what an attack tells of a checkpoint is stored as it is",
        ),
        Mutation(
            "cli.py",
            "        sys.stderr.write(traceback_of(error))\n        sys.exit(1)\n",
            "        __import__('traceback').print_exc()\n        sys.exit(1)\n",
            "a defect is printed as Python prints it, with the names of user and host",
        ),
        Mutation(
            "redaction.py",
            'for form in (value, value.strip(), repr(value)[1:-1], json.dumps(value)[1:-1], quote(value, safe=""))',
            "for form in (value,)",
            "a secret in quotation marks, as os.environ is printed, is not known again",
        ),
        Mutation("redaction.py", "        found.update(_passwords(value))", "        pass", "a password in an address is no secret"),
        Mutation("redaction.py", "TOKEN|SECRET|", "SECRET|", "a token is no secret"),
    ),
)
