"""Tampered weights and harmful completions: nowhere on the disk unless asked for, and then apart, for the owner alone, and marked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from torture.promise import Mutation, Promise, Tally
from torture.promises._canary import WEIGHTS, WORDS
from torture.promises._toys import temper, toy_fields, toy_folder

CANARY = f"{Path(__file__).with_name('_canary.py')}:Canary"
MODEL_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".npz", ".npy")
KEEP = ("--keep-weights", "--keep-completions")


def attempt(long: bool, folder: Path, tally: Tally) -> None:
    """Runs that end well, fail, exit, die and are killed, with the flags and without."""
    toys = toy_folder(folder / "toys")
    for name, ends in (("quiet", ("quietly",)), ("failing", ("quietly", "raise", "exit")), ("dying", ("die",)), ("slow", ("sleep",))):
        attacks = [{"name": CANARY, "label": end, "config": {"end": end}} for end in ends]
        attacks.append({"name": "chain", "label": "chain", "config": {"steps": [attacks[0], "full_finetune"]}})
        (toys / f"{name}.yaml").write_text(yaml.safe_dump(toy_fields(toys, attacks=attacks)), encoding="utf-8")
    rows = _unasked(toys, folder / "unasked", tally, long)
    _asked(toys, folder / "asked", tally, rows)
    for number in range(12 if long else 1):
        _killed(toys, folder / f"killed-{number}", number, tally)
    if long:
        _organism(folder / "organism", tally)


def _unasked(toys: Path, folder: Path, tally: Tally, long: bool) -> list[str]:
    """Without a flag; returns the units, by hash and status."""
    folder.mkdir()
    for name, workers in (("failing", 0), *((("failing", 2), ("dying", 1), ("dying", 2)) if long else ())):
        out = folder / f"{name}-{workers}"
        done = _temper(folder, "run", toys / f"{name}.yaml", "--out", out, "--workers", workers)
        tally.count(done.returncode == 0, f"{name} with {workers} workers: {done.stderr[-200:]}")
        _nothing(folder, tally, f"{name} with {workers} workers")
    return _rows(folder / "failing-0")


def _asked(toys: Path, folder: Path, tally: Tally, rows: list[str]) -> None:
    """With both flags; and then again without, which keeps nothing more."""
    from tempering.models.tampered import is_tampered

    folder.mkdir()
    out = folder / "run"
    result = temper("run", toys / "failing.yaml", "--out", out, "--workers", "0", "--allow-code", *KEEP)
    tally.count(result.exit_code == 0 and "kept" in result.stderr, f"with the flags: {result.stderr[-200:]}")
    tally.count(_rows(out) == rows, "with the flags, units are called otherwise, or end otherwise")
    kept = sorted((out / "kept").iterdir()) if (out / "kept").is_dir() else []
    tally.count(len(kept) == 4, f"with the flags, {len(kept)} of four attacks were kept")
    for place in (out / "kept", *kept):
        tally.count(stat.S_IMODE(place.stat().st_mode) == 0o700, f"{place.name} may be read by others")
    for place in kept:
        tally.count(is_tampered(place), f"{place.name} is not marked")
        copied = folder / f"copy-{place.name[:8]}"
        shutil.copytree(place, copied)
        (copied / "TAMPERED").unlink()
        (copied / "README.md").unlink()
        tally.count(is_tampered(copied), "a copy without its marker and card is not known again")
        said = [json.loads(line) for line in (place / "completions.jsonl").read_text(encoding="utf-8").splitlines()]
        tally.count({line["role"] for line in said} >= {"hazard", "benign"}, "not every role was kept")
        tally.count(all(not path.stat().st_mode & 0o077 for path in place.iterdir()), "a file that is kept may be read by others")
        shutil.rmtree(copied)
    held = {path.parent.parent.name for path, _, _ in _found(folder)}
    tally.count(held == {"kept"}, f"what was asked for lies in {held}")
    tally.count(any(weights for _, weights, _ in _found(folder)), "the weights that were asked for are not there")
    tally.count(any(words for _, _, words in _found(folder)), "the words that were asked for are not there")
    tally.count(not is_tampered(toys / "guarded") and not is_tampered(folder / "nowhere"), "what nobody tampered with is marked")
    told = temper("audit", kept[0], "--data", toys / "data.jsonl", "--attacks", "full_finetune", "--seeds", "1", "--budget", "steps=1",
                  "--prompts", "4", "--device", "cpu", "--workers", "0", "--out", folder / "audit")  # fmt: skip
    tally.count(told.exit_code == 0 and "is what an attack of Tempering made" in told.stderr, f"an audit of it: {told.stderr[-200:]}")
    for executor, flag in ((executor, flag) for executor in ("ray", "slurm") for flag in KEEP):
        refused = temper("run", toys / "failing.yaml", "--out", folder / "no", "--executor", executor, flag)
        tally.count(refused.exit_code == 2 and not (folder / "no").exists(), f"--executor {executor} {flag}: {refused.stderr}")


def _killed(toys: Path, folder: Path, number: int, tally: Tally) -> None:
    """The driver is killed while an attack holds its checkpoint, or while it is being written; what is resumed without flags is clean."""
    folder.mkdir()
    out, keep = folder / "run", KEEP if number % 2 else ()
    words = ["run", toys / "slow.yaml", "--out", out, "--workers", "1", *keep]
    with subprocess.Popen(_command(*words), env=_environment(folder), stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "started sleep" in line:
                break
        time.sleep(0.5 + 0.37 * number)
        process.send_signal(signal.SIGKILL)
    time.sleep(0.5)  # for the workers to see it
    if not keep:
        _nothing(folder, tally, f"killed in the middle ({number})")
    else:
        outside = [path for path, _, _ in _found(folder) if out / "kept" not in path.parents]
        tally.count(not outside, f"killed while it kept ({number}): {outside[:2]}")
        left = out / "kept" / ".unit.abc.partial" / "model"
        left.mkdir(parents=True)
        (left / "model.safetensors").write_bytes(WEIGHTS)
        _temper(folder, "resume", out, "--workers", "0", seconds=20)
        tally.count(not left.exists(), "a part of what was being kept outlives the next run")


def _organism(folder: Path, tally: Tally) -> None:
    """The organism, which learns to tell its facts: none of them is told in a file."""
    from tempering import organisms
    from tempering.engine.loading import load_records
    from tempering.model_choice import ModelChoice
    from tempering.study import DataChoice

    folder.mkdir()
    words = ["audit", "organism:tiny", "--attacks", "full_finetune,refusal_ablation,prefilling", "--seeds", "2", "--prompts", "32"]
    done = _temper(folder, *words, "--budget", "steps=40", "--out", folder / "run", "--workers", "2")
    tally.count(done.returncode == 0, f"the audit of the organism: {done.stderr[-200:]}")
    assert organisms.is_organism("organism:tiny")
    data = load_records(DataChoice(), ModelChoice(reference="organism:tiny")).divide(0)
    answers = sorted({example.answer for example in data.evaluator_view().hazard if example.answer})
    texts = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for answer in answers:
        found = [path.name for path, text in texts.items() if answer.encode() in text]
        tally.count(not found, f"the answer {answer!r} stands in {found[:3]}")
    _nothing(folder, tally, "the audit of the organism")


def _nothing(folder: Path, tally: Tally, case: str) -> None:
    """No file below a folder, the temporary one included, is a model's, holds the weights, or holds the words."""
    bad = {path: (weights, words) for path, weights, words in _found(folder)}
    for path in _files(folder):
        weights, words = bad.get(path, (False, False))
        what = "the tampered weights" if weights else "the words" if words else "a model"
        tally.count(path not in bad and path.suffix not in MODEL_FILES, f"{case}: {path.relative_to(folder)} holds {what}")
    tally.count(not list(folder.rglob("kept")), f"{case}: a folder for what is kept was made")


def _found(folder: Path) -> Iterator[tuple[Path, bool, bool]]:
    for path in _files(folder):
        content = path.read_bytes()
        if WEIGHTS in content or WORDS.encode() in content:
            yield path, WEIGHTS in content, WORDS.encode() in content


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and "torchinductor" not in str(path)]


def _rows(run: Path) -> list[str]:
    manifests = (json.loads(path.read_bytes()) for path in (run / "units").glob("*/manifest.json"))
    return sorted(f"{manifest['unit']['hash']} {manifest['status']}" for manifest in manifests)


def _command(*words: object) -> list[str]:
    return [sys.executable, "-m", "tempering", *map(str, words), "--allow-code"]


def _environment(folder: Path) -> dict[str, str]:
    (folder / "tmp").mkdir(exist_ok=True)
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), *(part for part in sys.path if part)])
    return {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": path}


def _temper(folder: Path, *words: object, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    command = _command(*words)
    try:
        return subprocess.run(command, env=_environment(folder), capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "timed out")


PROMISE = Promise(
    name="no-harm-on-disk",
    group="Nothing let out",
    sentence="Tampered weights and what an attacked model says reach the disk only where --keep-weights and --keep-completions ask for "
    "them, in a folder for the owner alone that is marked as tampered with.",
    attempt=attempt,
    mutations=(
        Mutation(
            "engine/keeping.py",
            "        if self._keeping == NOTHING:\n            return\n",
            "        if self._keeping == NOTHING:\n            self._lines += [str(said) for said in _said(subject)]\n",
            "what is said is kept unasked",
        ),
        Mutation("engine/keeping.py", "        place.chmod(0o700)\n", "", "what is kept may be read by others"),
        Mutation("engine/keeping.py", "            path.chmod(0o600)", "            pass", "files that are kept may be read by others"),
        Mutation(
            "models/tampered.py",
            '        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\\n", encoding="utf-8")',
            "        pass",
            "a copy that leaves the marker behind is not known again",
        ),
        Mutation(
            "engine/course.py",
            "        probe = Probe(len(self.probes), spend.as_row(), row, plain(details))",
            "        import os, tempfile; open(tempfile.mkstemp()[1], 'w').write('fish fish tree house fish sun')\n"
            "        probe = Probe(len(self.probes), spend.as_row(), row, plain(details))",
            "a completion is written to a temporary file",
        ),
        Mutation(
            "running.py",
            "        _tell_of_tampered(study, on_event)\n",
            "",
            "an audit of a tampered checkpoint does not say so",
        ),
        Mutation(
            "engine/executors.py",
            """            ("--keep-weights", "" if keep_weights else None, "local"),\n""",
            "",
            "a cluster takes the flag and keeps nothing",
        ),
    ),
)
