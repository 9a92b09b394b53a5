"""A study file: what is read, and what is said of one that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tempering.errors import InvalidStudy
from tempering.study import MethodChoice, Study
from tempering.study_file import load_study
from tempering.threat_model import Need

SMALLEST = "models: [organism:tiny]\nattacks: [full_finetune]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def message(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(InvalidStudy) as caught:
        load_study(path)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(str(path), "study.yaml")


def test_the_smallest_study_has_the_papers_defaults(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, SMALLEST))
    assert study.models[0].reference == "organism:tiny"
    assert study.attacks[0].name == "full_finetune"
    assert study.seeds == (0, 1, 2, 3, 4)
    assert (study.threshold.tau, study.threshold.epsilon, study.budget.steps) == (0.5, 0.1, 200)


def test_a_full_study_is_read_as_it_stands(tmp_path: Path) -> None:
    text = """
    name: two models
    models:
      - organism:tiny
      - {reference: ./model, unguarded: ./base, dtype: bfloat16, device: cpu, chat_template: chat.jinja, trust_remote_code: true}
    attacks:
      - full_finetune
      - name: lora_finetune
        config: {training: {learning_rate: 0.001}}
    seeds: [3, 7]
    budget: {steps: 50, flops: 1.0e+12}
    threshold: {tau: 0.4, epsilon: 0.2}
    threat_model: {name: no gradients, allows: [weights, harmful prompts]}
    data: {reference: data.jsonl, seed: 4, domains: [chem]}
    probes: {prompts: 16}
    """
    study = load_study(write(tmp_path, text))
    assert [model.reference for model in study.models] == ["organism:tiny", "./model"]
    assert study.models[1].trust_remote_code
    assert study.models[1].chat_template == Path("chat.jinja")
    assert study.attacks[1].config == {"training": {"learning_rate": 0.001}}
    assert study.seeds == (3, 7)
    assert study.budget.flops == 1e12
    assert study.threat_model.allows == {Need.WEIGHTS, Need.HARMFUL_PROMPTS}


def test_seeds_may_be_a_count(tmp_path: Path) -> None:
    assert load_study(write(tmp_path, SMALLEST + "seeds: 2\n")).seeds == (0, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: [organism:tiny]\natacks: [a]\n", "study.yaml:2: unknown key 'atacks'; did you mean 'attacks'?"),
        (
            "models:\n  - reference: m\n    dtpye: float32\nattacks: [a]\n",
            "study.yaml:3: unknown key 'models.0.dtpye'; did you mean 'dtype'?",
        ),
        (SMALLEST + "threshold:\n  tau: 0.5\n  espilon: 0.2\n", "study.yaml:5: unknown key 'threshold.espilon'; did you mean 'epsilon'?"),
        (
            SMALLEST + "budget:\n  zzz: 1\n",
            "study.yaml:4: unknown key 'budget.zzz'; known: device_seconds, examples, flops, queries, steps, tokens, trials",
        ),
        (SMALLEST + "budget:\n  steps: 0\n", "study.yaml:4: budget.steps: Input should be greater than 0"),
        (SMALLEST + "budget:\n  flops: .inf\n", "study.yaml:4: budget.flops: Input should be a finite number"),
        (SMALLEST + "threshold: {tau: 1.5}\n", "study.yaml:3: threshold.tau: Input should be less than or equal to 1"),
        (SMALLEST + "seeds: []\n", "study.yaml:3: seeds: give at least one seed, each only once"),
        (SMALLEST + "seeds: 0\n", "study.yaml:3: seeds: give at least one seed, each only once"),
        (SMALLEST + "seeds: [1, 2, 1]\n", "study.yaml:3: seeds: give at least one seed, each only once"),
        (SMALLEST + "seeds: 99999999999\n", "study.yaml:3: seeds: at most 10000 seeds"),
        ("models: [organism:tiny]\n", "study.yaml:1: attacks: Field required"),
        ("models: organism:tiny\nattacks: [a]\n", "study.yaml:1: models: Input should be a list"),
        ("attacks: [a]\nmodels:\n  - {reference: m,\n     dtype: bf16}\n", "study.yaml:4: models.0.dtype: Input should be 'float32'"),
        (SMALLEST + "attacks: [b]\n", "study.yaml:3: the key 'attacks' stands twice"),
        (SMALLEST + "probes:\n  prompts: 4\n  batch_size: 2\n  prompts: 5\n", "study.yaml:6: the key 'prompts' stands twice"),
        ("models: [m]\nattacks: [\n", "study.yaml:3 is not YAML: expected the node content"),
        (SMALLEST + "budget: !!python/object:os.system {}\n", "study.yaml:3 is not YAML: could not determine a constructor for the tag"),
        ("- models\n", "study.yaml holds no mapping; start with 'models:' and 'attacks:'"),
        ("", "study.yaml holds no mapping"),
        ("models: [m]\nattacks: [a]\n1: 2\n", "study.yaml:3: 1: Keys should be strings"),
    ],
)
def test_a_bad_study_is_told_by_its_line(tmp_path: Path, text: str, expected: str) -> None:
    assert message(tmp_path, text).startswith(expected)


def test_a_missing_or_binary_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidStudy, match=r"cannot read the study .*No such file"):
        load_study(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidStudy, match=r"cannot read the study .*binary\.yaml"):
        load_study(tmp_path / "binary.yaml")
    with pytest.raises(InvalidStudy, match="cannot read the study"):
        load_study(tmp_path)


def test_a_study_survives_the_way_to_a_file_and_back(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, SMALLEST + "seeds: [5, 2]\nthreat_model: {allows: [weights]}\n"))
    dumped = yaml.safe_dump(study.model_dump(mode="json"))
    again = load_study(write(tmp_path, dumped))
    assert again == study
    assert again.digest == study.digest
    assert Study.model_validate_json(study.model_dump_json()) == study


def test_a_threat_model_is_known_by_its_name(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, SMALLEST + "threat_model: query-only\n"))
    assert study.threat_model.name == "query-only"
    assert {Need.QUERIES, Need.HARMFUL_PROMPTS} <= study.threat_model.allows
    assert not study.threat_model.allows & {Need.WEIGHTS, Need.GRADIENTS, Need.FINE_TUNING, Need.PUBLIC_BASE}


def test_an_unknown_threat_model_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidStudy, match=r"study\.yaml:3: threat_model: there is no threat model 'quary'; known: open-weights, "):
        load_study(write(tmp_path, SMALLEST + "threat_model: quary\n"))


@pytest.mark.parametrize(
    "written",
    ["merge+refusal_ablation", ["merge", "refusal_ablation"], ["merge", {"name": "refusal_ablation"}]],
    ids=["sum", "list", "mixed"],
)
def test_a_chain_is_written_as_a_sum_or_a_list(written: object) -> None:
    choice = MethodChoice.model_validate(written)
    assert (choice.name, choice.title) == ("chain", "merge + refusal_ablation")
    assert [MethodChoice.model_validate(step).name for step in choice.config["steps"]] == ["merge", "refusal_ablation"]


def test_a_choice_is_called_by_its_label() -> None:
    assert MethodChoice(name="data_poisoning").title == "data_poisoning"
    assert MethodChoice(name="data_poisoning", label="2 % poison").title == "2 % poison"
