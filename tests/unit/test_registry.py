"""Families are found by looking, and a model without one is told what to do."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from growformer.architecture import families, registry
from growformer.architecture.declaration import Architecture
from growformer.architecture.registry import architectures, for_config
from growformer.architecture.scope import OUT_OF_SCOPE
from growformer.errors import ArchitectureError, UnknownArchitectureError

FAMILY = """
from growformer.architecture.declaration import Architecture, linear

TOY = Architecture(
    name={name!r},
    model_types={model_types!r},
    sizes={{"stream": "hidden_size"}},
    arrows={{"a": linear("stream -> other:stream")}},
)
ALIAS = TOY
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace the families by those that a test writes into a folder."""
    monkeypatch.setattr(families, "__path__", [str(tmp_path)])
    known = set(sys.modules)
    registry.architectures.cache_clear()
    registry._by_model_type.cache_clear()
    registry._claiming.cache_clear()
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith(f"{families.__name__}."):
            del sys.modules[name]
            delattr(families, name.rsplit(".", 1)[1])
    registry.architectures.cache_clear()
    registry._by_model_type.cache_clear()
    registry._claiming.cache_clear()


def write(folder: Path, file: str, name: str, *model_types: str) -> None:
    (folder / f"{file}.py").write_text(FAMILY.format(name=name, model_types=model_types), encoding="utf-8")


def test_every_file_declares_a_family_or_is_shared_by_some() -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in Path(families.__path__[0]).glob("*.py")}
    for module in pkgutil.iter_modules(families.__path__):
        name = f"{families.__name__}.{module.name}"
        names = {v.name for v in vars(importlib.import_module(name)).values() if isinstance(v, Architecture)}
        users = [stem for stem, text in texts.items() if re.search(rf"from {re.escape(name)} import", text)]
        assert names or len(users) > 1, name
        assert names <= set(architectures())


def test_families_are_sorted_and_found_by_model_type() -> None:
    assert list(architectures()) == sorted(architectures())
    for name, architecture in architectures().items():
        assert architecture.name == name
        for model_type in architecture.model_types:
            if architecture.variant is None:
                assert for_config({"model_type": model_type}) is architecture


def test_a_new_file_is_found_by_itself(folder: Path) -> None:
    write(folder, "zebra", "zebra", "zebra", "zebroid")
    write(folder, "ant", "ant", "ant")
    assert list(architectures()) == ["ant", "zebra"]
    assert for_config({"model_type": "zebroid"}).name == "zebra"


def test_two_families_of_one_name_are_refused(folder: Path) -> None:
    write(folder, "one", "same", "a")
    write(folder, "two", "same", "b")
    with pytest.raises(ArchitectureError, match="two families are called 'same'"):
        architectures()


def test_two_families_of_one_model_type_are_refused(folder: Path) -> None:
    write(folder, "one", "one", "same")
    write(folder, "two", "two", "same")
    with pytest.raises(ArchitectureError, match="both one and two claim 'same'"):
        for_config({"model_type": "same"})


def test_an_unknown_model_type_is_told_what_to_do() -> None:
    with pytest.raises(UnknownArchitectureError) as caught:
        for_config({"model_type": "lama"})
    message = str(caught.value)
    assert message.startswith("no architecture describes model_type 'lama'; did you mean 'llama'?")
    known = {t for a in architectures().values() for t in a.model_types}
    assert f"{len(known)} model types are described (docs/guarantees.md lists them)." in message
    assert "To bring your own: growformer inspect MODEL --draft-architecture drafts a declaration" in message


def test_an_unknown_model_type_without_a_neighbour() -> None:
    with pytest.raises(UnknownArchitectureError) as caught:
        for_config({"model_type": "quux-9"})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": 3}], ids=str)
def test_a_config_without_model_type_is_told_what_to_do(config: dict[str, object]) -> None:
    found = config.get("model_type")
    with pytest.raises(UnknownArchitectureError) as caught:
        for_config(config)
    assert str(caught.value) == (
        f"the config names no model_type (found {found!r}); pass architecture=..., see docs/architectures.md"
    )


def test_what_is_out_of_scope_says_so() -> None:
    with pytest.raises(UnknownArchitectureError, match="mamba2 is a state-space or recurrent model: out of scope"):
        for_config({"model_type": "mamba2"})


def test_nothing_is_both_described_and_out_of_scope() -> None:
    described = {t for a in architectures().values() for t in a.model_types}
    assert not described & set(OUT_OF_SCOPE)
    assert "mamba" in OUT_OF_SCOPE
