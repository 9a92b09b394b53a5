"""EleutherAI's lm-evaluation-harness in this process: its tasks, and a model in memory as the harness sees one.

Imported only once somebody asks for it; needs the extra ``lm-eval``. Its request cache and its store of answers are never used: they
are pickled, and know a model by a name that every checkpoint of an attack shares.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import huggingface_hub.constants
import lm_eval
import lm_eval.api.model
import lm_eval.api.task
import lm_eval.models.huggingface
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from lm_eval.api.registry import get_metric
from lm_eval.evaluator_utils import get_sample_size
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel

from tempering.data.chat import ChatFormat
from tempering.errors import TemperingError, UnknownName, UnusableData
from tempering.evaluators._conversation import Conversation
from tempering.evaluators._generation import _undisturbed
from tempering.evaluators._guests import SEED, guest, is_file, one_line

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Of an object in memory, by which a function that has no source is spelt; another in every process."""

LOGGERS = ("lm_eval", "lm-eval", "datasets", "evaluate", "huggingface_hub", "fsspec", "accelerate")


class InMemory(HFLM):  # type: ignore[misc]
    """A model that is already loaded, asked by the house's chat format."""

    def __init__(self, model: PreTrainedModel, chat: ChatFormat, batch_size: int) -> None:
        """Wrap a model; neither it nor its tokenizer is changed.

        Args:
            model: the decoder, in evaluation mode.
            chat: its chat format.
            batch_size: sequences in a pass.
        """
        self._chat = chat
        # the harness ties weights anew, which would undo an attack that has parted them
        with mock.patch.object(model, "tie_weights"):
            super().__init__(pretrained=model, backend="causal", tokenizer=copy.deepcopy(chat.tokenizer), batch_size=batch_size)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as an audit lays it out; a last message of the assistant's is the beginning of its answer."""
        return Conversation.of(chat_history).text(self._chat)


@contextmanager
def at_work() -> Iterator[None]:
    """Let the harness work: silently, without bars, without metrics that are code on the hub."""
    with ExitStack() as stack:
        stack.enter_context(guest(*LOGGERS))
        for module in (lm_eval.models.huggingface, lm_eval.api.task, lm_eval.api.model):
            stack.enter_context(mock.patch.object(module, "tqdm", functools.partial(module.tqdm, disable=True)))
        stack.enter_context(mock.patch.dict("sys.modules", {"evaluate": None}))  # it would fetch a metric's code from the hub, and run it
        stack.enter_context(mock.patch.object(lm_eval.api.task, "get_metric", _own_metric))
        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        yield


class Tasks:
    """Loaded tasks, ready to be put to any number of models."""

    def __init__(self, named: Sequence[str], num_fewshot: int | None, limit: float | None) -> None:
        """Read the tasks and their data.

        Args:
            named: names of the harness's own, YAML files, or folders of them.
            num_fewshot: worked examples before each question; ``None`` takes each task's own number.
            limit: questions of each task, as a count or as a share below one; ``None`` for all.

        Raises:
            UnknownName: there is no such task.
            UnusableData: a task cannot be read, or its data cannot be had.
        """
        self._limit = limit
        self._loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
        self.names: list[str] = []
        for name in named:
            with at_work(), _local_data_uncached(), _word_lists_asked_for(name):
                self._add(name)
        for name, task in self._loaded["tasks"].items():
            _refuse_code(name, task)
            if "ifeval" in name:  # which splits words only when it scores
                _require_words("tokenizers/punkt_tab", name)
            if num_fewshot is not None and task.get_config("num_fewshot") != 0:
                task.set_config(key="num_fewshot", value=num_fewshot)
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)

    def _add(self, name: str) -> None:
        path = Path(name).expanduser()
        try:
            if not is_file(name):
                manager, wanted = _own_tasks(), [name]
                if name not in manager.task_index:
                    raise UnknownName("lm-eval task", name, manager.all_tasks)
            elif path.is_dir():
                manager = TaskManager(include_path=str(path), include_defaults=False)
                wanted = manager.all_groups or manager.all_subtasks
                if not wanted:
                    raise UnusableData(f"the folder {name} holds no lm-eval task", "put a YAML file with 'task:' into it")
            else:
                manager, wanted = TaskManager(include_defaults=False), [str(path.resolve())]
            loaded = manager.load(wanted)
        except TemperingError:
            raise
        except Exception as error:  # a task is a program of its author's: anything may go wrong in it
            raise UnusableData(f"the lm-eval task {name} cannot be had: {one_line(error)}", _remedy(error, local=is_file(name))) from error
        for kind in ("tasks", "groups", "group_map"):
            self._loaded[kind].update(loaded.get(kind, {}))
        children = {child for members in loaded.get("group_map", {}).values() for child in members}
        self.names += [each for each in (*loaded.get("groups", {}), *loaded["tasks"]) if each not in children]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over every task's configuration and the questions that it asks."""
        found = hashlib.sha256()
        for name, task in sorted(self._loaded["tasks"].items()):
            settings = json.dumps(task.dump_config(), sort_keys=True, default=str)
            found.update(f"{name} {_ADDRESS.sub('', settings)}".encode())
            for _, doc in task.doc_iterator(rank=0, limit=self._size(task), world_size=1):
                found.update(json.dumps(doc, sort_keys=True, default=str).encode())
        return found.hexdigest()[:32]

    def _size(self, task: Any) -> int | None:
        size: int | None = get_sample_size(task, self._limit)
        return size

    def put_to(
        self, model: PreTrainedModel, chat: ChatFormat, *, batch_size: int, apply_chat_template: bool, system_instruction: str | None
    ) -> dict[str, float]:
        """Ask a model every question.

        Args:
            model: any decoder, also with adapters or hooks; weights, modes and generation settings are left as they were.
            chat: its chat format.
            batch_size: sequences in a pass.
            apply_chat_template: questions are put as messages of a user's, examples as earlier turns.
            system_instruction: what the model is told first.

        Returns:
            ``task/metric``, or ``task/metric/filter`` where a task reads answers in several ways.
        """
        with at_work(), _undisturbed(model) as decoder:
            assert decoder.generation_config is not None
            decoder.generation_config.eos_token_id = list(chat.end_ids)  # else an answer goes on behind its end
            for task in self._loaded["tasks"].values():
                task.set_fewshot_seed(seed=SEED)
            results = lm_eval.evaluate(
                InMemory(decoder, chat, batch_size),
                self._loaded,
                limit=self._limit,
                cache_requests=False,
                bootstrap_iters=0,
                log_samples=False,
                system_instruction=system_instruction,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=apply_chat_template,
                confirm_run_unsafe_code=False,
            )
        return self._measures(results)

    def _measures(self, results: Any) -> dict[str, float]:
        """The numbers of what was named; where a group has none of its own, those of its members."""
        found: dict[str, float] = {}
        waiting = list(self.names)
        while waiting:
            name = waiting.pop(0)
            own = dict(_metrics(name, {**results["results"].get(name, {}), **results.get("groups", {}).get(name, {})}))
            found |= own
            if not own:
                waiting += self._loaded["group_map"].get(name, [])
        return found


def _metrics(name: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        metric, comma, reading = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float)):
            yield "/".join([name, metric] + ([reading] if reading != "none" else [])), float(value)


def harness_version() -> str:
    """The harness with its version."""
    return f"lm_eval {version('lm_eval')}"


@functools.cache
def _own_tasks() -> TaskManager:
    """The index of the harness's own tasks, which takes seconds to make."""
    return TaskManager()


@contextmanager
def _local_data_uncached() -> Iterator[None]:
    """Read files of this machine without leaving a converted copy of them in a cache; data of the hub are kept where they always are."""
    real = datasets.load_dataset
    with tempfile.TemporaryDirectory(prefix="tempering-") as folder:

        def load_dataset(path: str, name: str | None = None, **settings: Any) -> Any:
            if path in _PACKAGED_DATASETS_MODULES or Path(path).exists():
                settings = {**settings, "cache_dir": folder, "keep_in_memory": True}
            return real(path, name, **settings)

        with mock.patch.object(datasets, "load_dataset", load_dataset):
            yield


@contextmanager
def _word_lists_asked_for(task: str) -> Iterator[None]:
    """Let a task fetch what nltk splits words by only where the hub may be asked too, and refuse the task where it cannot be had.

    Some fetch it when their code is loaded, whatever ``HF_HUB_OFFLINE`` says, go on without, and fail once there are answers to score.
    """
    try:
        import nltk
    except ModuleNotFoundError:
        yield
        return
    real = nltk.download

    def download(name: Any = None, *rest: Any, **settings: Any) -> bool:
        if huggingface_hub.constants.HF_HUB_OFFLINE or not real(name, *rest, **settings):
            raise _no_words(str(name), task)
        return True

    with mock.patch.object(nltk, "download", download):
        yield


def _require_words(resource: str, task: str) -> None:
    import nltk

    try:
        nltk.data.find(resource)
    except LookupError:
        raise _no_words(resource.rpartition("/")[2], task) from None


def _no_words(name: str, task: str) -> UnusableData:
    return UnusableData(
        f"the lm-eval task {task} splits words by nltk's {name}, which is not on this machine",
        f"fetch it once where there is a network (python -m nltk.downloader {name}), or name its folder in NLTK_DATA",
    )


def _refuse_code(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise UnusableData(f"the lm-eval task {name} runs code that the model writes", "take a task that reads its answers")


def _own_metric(name: str, hf_evaluate_metric: bool = False) -> Any:
    """A metric of the harness's own; of others it would fetch the code from the hub, and run it."""
    found = None if hf_evaluate_metric else get_metric(name)
    if found is None:
        raise UnusableData(f"an lm-eval task is scored by {name!r}, which is code on the hub", "take one with lm-eval's own metrics")
    return found


def _remedy(error: BaseException, *, local: bool) -> str:
    if isinstance(error, ModuleNotFoundError):
        hub = error.name == "evaluate"
        return "it is scored by code on the hub; take one with lm-eval's own metrics" if hub else f"install the package {error.name}"
    if local:
        return "mend the file, or the data that it names"
    return "fetch its data where there is a network, or unset HF_HUB_OFFLINE" if isinstance(error, OSError) else "see: lm-eval ls tasks"
