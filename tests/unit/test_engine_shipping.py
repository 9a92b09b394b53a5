"""Files of a study on their way: described by content, put down once a node, found there under the study's own names."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from support.engine_samples import work
from support.named_samples import ROWS, encoded, write_copy
from support.tiny_models import tiny_model
from support.toy_study import ATTACK, DEFENSE, rows, write_folder, write_rows
from tempering import registry, relocation
from tempering.data.fetching import COPIES
from tempering.data.importers import load_dataset
from tempering.engine.loading import load_records
from tempering.engine.shipping import DEFENDED, Arrival, Packer, Parcel, Shelf, packed
from tempering.engine.units import ResolvedMethod, Unit
from tempering.errors import UnusableModel
from tempering.models import hub, load
from tempering.models.saving import save
from tempering.relocation import HUB, relocate
from tempering.study import DataChoice, ModelChoice


@pytest.fixture(autouse=True)
def nothing_relocated() -> Iterator[None]:
    yield
    relocation.forget()
    registry._class_of.cache_clear()


def brought(parcels: list[Parcel], shelf: Shelf) -> list[Path]:
    """Parcels through JSON and onto a shelf, as a worker takes them in; then they are gone from where they came from."""
    places = []
    for parcel in parcels:
        place = shelf.put(Parcel.from_json(parcel.as_json()), parcel.pieces)
        relocate({parcel.key: place})
        places.append(place)
    for source in [parcel.source.resolve() for parcel in parcels]:
        shutil.rmtree(source) if source.is_dir() else source.unlink()
    return places


def test_a_model_is_loaded_where_it_was_brought_to_and_keeps_its_name_and_digest(tmp_path: Path) -> None:
    folder = save(*tiny_model("llama", 0), tmp_path / "mine")
    (folder / "optimizer.pt").write_bytes(b"no weights of the model")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").write_bytes(b"another")
    unit = Unit(work(model=ModelChoice(reference=str(folder)), data=DataChoice(reference="organism:tiny")), 0)
    before = load(str(folder), device="cpu")
    parcels = Packer(tmp_path / "models").parcels(unit)
    assert [parcel.key for parcel in parcels] == [str(folder)]
    assert not {"optimizer.pt", "checkpoint-1/model.safetensors"} & parcels[0].files.keys()
    brought(parcels, Shelf(tmp_path / "node"))
    after = load(str(folder), device="cpu")
    assert (after.reference, after.digest) == (before.reference, before.digest)


def test_data_methods_and_templates_are_found_where_they_were_brought_to(tmp_path: Path) -> None:
    data, attack, template = write_folder(tmp_path / "prompts"), tmp_path / "mine.py", tmp_path / "chat.jinja"
    shutil.copy(ATTACK.rpartition(":")[0], attack)
    template.write_text("{% for message in messages %}{{ message.content }} {% endfor %}")
    folder = save(*tiny_model("llama", 0), tmp_path / "model")
    chain = ResolvedMethod(name="chain", config={"steps": [{"name": f"{attack}:Nudge", "config": {}}]})
    choice = ModelChoice(reference=str(folder), chat_template=template)
    unit = Unit(work(model=choice, data=DataChoice(reference=str(data)), attack=chain), 0)
    digest, loaded = load_dataset(str(data)).digest, load(str(folder), device="cpu", chat_template=template).digest
    packer = Packer(tmp_path / "models")
    assert packer.parcels(unit) == packer.parcels(unit)
    brought(packer.parcels(unit), Shelf(tmp_path / "node"))
    assert load_dataset(str(data)).digest == digest
    assert registry.get("attacks", f"{attack}:Nudge").__name__ == "Nudge"
    assert load(str(folder), device="cpu", chat_template=template).digest == loaded


def test_named_sets_and_their_companion_are_brought_and_nobody_is_asked_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies, own = tmp_path / "copies", tmp_path / "own.jsonl"
    write_copy(copies, "jailbreakbench", "JailbreakBench/JBB-Behaviors")
    (copies / "strongreject.csv").write_bytes(encoded(".csv", ROWS["walledai/StrongREJECT"]["data/train-00000-of-00001.parquet"]))
    write_copy(copies, "dolly", "databricks/databricks-dolly-15k")
    write_rows(own, rows(benign=False))
    monkeypatch.setenv(COPIES, str(copies))
    data, model = DataChoice(reference=f"jailbreakbench+strongreject+identity-shift+{own}"), ModelChoice(reference="organism:tiny")
    digest = load_records(data, model).digest
    parcels = Packer(tmp_path / "models").parcels(Unit(work(model=model, data=data), 0))
    assert [parcel.key.partition(" ")[2] or parcel.key for parcel in parcels] == ["jailbreakbench", "strongreject", str(own), "dolly"]
    assert [sorted(parcel.files) for parcel in parcels][1] == ["strongreject.csv"]
    shelf = Shelf(tmp_path / "node")
    for parcel in parcels:
        relocate({parcel.key: shelf.put(Parcel.from_json(parcel.as_json()), parcel.pieces)})
    shutil.rmtree(copies)
    own.unlink()
    monkeypatch.delenv(COPIES)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *arguments, **options: pytest.fail("the hub was asked"))
    assert load_records(data, model).digest == digest


def test_an_adapter_brings_its_base_along(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = tiny_model("llama", 0)
    base = save(model, tokenizer, tmp_path / "base")
    adapter = tmp_path / "adapters" / "mine"
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = "../../base"
    adapted.save_pretrained(str(adapter))
    before = load(str(adapter), device="cpu").digest
    unit = Unit(work(model=ModelChoice(reference=str(adapter)), data=DataChoice(reference="organism:tiny")), 0)
    parcels = Packer(tmp_path / "models").parcels(unit)
    assert [parcel.key for parcel in parcels] == [str(adapter), "../../base"]
    assert base.is_dir()
    brought(parcels, Shelf(tmp_path / "node"))
    assert load(str(adapter), device="cpu").digest == before


def test_a_hub_model_keeps_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = save(*tiny_model("llama", 0), tmp_path / "snapshots" / "c0ffee")
    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", lambda *arguments, **options: str(snapshot))
    unit = Unit(work(model=ModelChoice(reference="org/name@main"), data=DataChoice(reference="organism:tiny")), 0)
    parcels = Packer(tmp_path / "models").parcels(unit)
    assert [parcel.key for parcel in parcels] == [f"{HUB}org/name@main"]
    monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", lambda *arguments, **options: pytest.fail("the hub was asked"))
    brought(parcels, Shelf(tmp_path / "node"))
    assert load("org/name@main", device="cpu").revision == "c0ffee"


def test_the_packages_own_organisms_and_methods_are_not_sent(tmp_path: Path) -> None:
    unit = Unit(work(model=ModelChoice(reference="organism:tiny"), data=DataChoice(reference=None)), 0)
    assert Packer(tmp_path).parcels(unit) == []


def test_what_is_on_the_shelf_is_not_fetched_again(tmp_path: Path) -> None:
    parcel = packed("data", write_rows(tmp_path / "data.jsonl", rows()))
    asked: list[str] = []

    def pieces(file: str) -> Iterable[bytes]:
        asked.append(file)
        return parcel.pieces(file)

    shelf = Shelf(tmp_path / "node")
    assert shelf.put(parcel, pieces) == shelf.put(parcel, pieces)
    assert asked == ["data.jsonl"]


def test_what_changed_on_its_way_is_refused_and_not_put_down(tmp_path: Path) -> None:
    parcel = packed("data", write_rows(tmp_path / "data.jsonl", rows()))
    shelf = Shelf(tmp_path / "node")
    with pytest.raises(UnusableModel, match=r"data\.jsonl has changed"):
        shelf.put(parcel, lambda file: [b"something else"])
    assert shelf.put(parcel, parcel.pieces).read_bytes() == (tmp_path / "data.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", ""])
def test_a_parcel_cannot_reach_out_of_its_folder(name: str) -> None:
    sound = {"key": "k", "name": "n", "single": False, "files": {"file": ["0" * 64, 1]}}
    Parcel.from_json(sound)
    with pytest.raises(ValueError, match="is no name of a file"):
        Parcel.from_json({**sound, "files": {name: ["0" * 64, 1]}})
    with pytest.raises(ValueError, match="is no name of a file"):
        Parcel.from_json({**sound, "name": name})


def test_a_shelf_in_a_folder_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PermissionError):
        Shelf(tmp_path / "link")


def test_a_defended_model_arrives_whole_or_not_at_all(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "tempering.json").write_text("{}")
    (made / "weights").write_bytes(b"abc")
    (made / "empty").touch()
    parcel, models = packed(f"{DEFENDED}0123", made), tmp_path / "models"
    arrival = Arrival(parcel, models)
    for file in parcel.files:
        for piece in parcel.pieces(file):
            arrival.add(file, piece)
        assert not (models / "0123").exists()
    place = arrival.settle()
    assert packed(parcel.key, place).files == parcel.files
    broken = Arrival(packed(f"{DEFENDED}4567", made), models)
    broken.add("weights", b"ab")
    with pytest.raises(UnusableModel, match="has changed"):
        broken.settle()
    with pytest.raises(ValueError, match="no file of this parcel"):
        Arrival(parcel, models).add("../../elsewhere", b"")
    assert [path.name for path in models.iterdir() if not path.name.startswith(".")] == ["0123"]


def test_a_node_that_trained_another_model_of_that_name_shows_the_one_that_was_sent(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "node")
    for content in ("one", "two"):
        (tmp_path / content).mkdir()
        (tmp_path / content / "weights").write_text(content)
    shutil.copytree(tmp_path / "one", shelf.models / "0123")
    same, other = (packed(f"{DEFENDED}0123", tmp_path / content) for content in ("one", "two"))
    shelf.put(same, same.pieces)
    assert not (shelf.models / "0123").is_symlink()
    shelf.put(other, other.pieces)
    assert (shelf.models / "0123" / "weights").read_text() == "two"


def test_defences_files_are_sent_too(tmp_path: Path) -> None:
    folder = save(*tiny_model("llama", 0), tmp_path / "model")
    fields = {"defense": ResolvedMethod(name=DEFENSE, config={}), "utility_floor": 0.9, "hardening_version": 1}
    unit = Unit(work(model=ModelChoice(reference=str(folder)), data=DataChoice(reference="organism:tiny"), **fields), 0)
    assert DEFENSE.rpartition(":")[0] in [parcel.key for parcel in Packer(tmp_path / "models").parcels(unit)]
