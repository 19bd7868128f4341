"""Folders with links, pipes, devices, pickles, code and indices that lead elsewhere; beside each one that opens."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.samples import CONFIGS, file_of, header_of, tensors, write
from tests.hostile.targets import listing, time_limit

import growformer
from growformer.errors import SourceError
from growformer.storage import folder as storage
from growformer.storage import links, plain_json
from growformer.storage.folder import INDEX, open_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refused(model: Path) -> str:
    with pytest.raises(SourceError) as caught, time_limit():
        open_folder(model)
    return str(caught.value)


def cached(tmp_path: Path, **changes: Any) -> Path:
    """Return a snapshot as the hub's cache keeps it: every file a link into ``blobs``."""
    snapshot = write(tmp_path / "models--owner--name" / "snapshots" / COMMIT, **changes)
    blobs = tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(Path("..") / ".." / "blobs" / str(number))
    return snapshot


# Links.

FILES = ["config.json", "model.safetensors"]
SHARDED = ["config.json", INDEX, "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize("shards", [1, 2])
def test_the_cache_of_the_hub_opens(tmp_path: Path, shards: int) -> None:
    snapshot = cached(tmp_path, shards=shards)
    assert open_folder(snapshot).revision == COMMIT
    (tmp_path / "elsewhere").symlink_to(snapshot)
    assert open_folder(tmp_path / "elsewhere").revision == COMMIT
    assert not open_folder(snapshot).leads_outside(Path("config.json"))


@pytest.mark.parametrize(("shards", "name"), [*((1, name) for name in FILES), *((2, name) for name in SHARDED)])
def test_links_inside_open_and_links_out_do_not(tmp_path: Path, shards: int, name: str) -> None:
    model = write(tmp_path / "model", shards=shards)
    file = model / name
    file.rename(model / f"the-{name}")
    file.symlink_to(f"the-{name}")
    open_folder(model)
    (model / f"the-{name}").rename(tmp_path / "secret")
    for target in (tmp_path / "secret", Path("..") / "secret"):
        file.unlink()
        file.symlink_to(target)
        message = refused(model)
        assert message.startswith(f"{file}: a link to {tmp_path}/secret, which is outside of the model's folder; ")
    (tmp_path / "hop").symlink_to("secret")
    file.unlink()
    file.symlink_to(tmp_path / "hop")
    assert "outside of the model's folder" in refused(model)


def test_blobs_of_something_that_is_no_cache(tmp_path: Path) -> None:
    """Any folder has a ``../../blobs``; only a snapshot's is its own."""
    (tmp_path / "blobs").mkdir()
    model = write(tmp_path / "a" / "model")
    (model / "config.json").rename(tmp_path / "blobs" / "1")
    (model / "config.json").symlink_to(tmp_path / "blobs" / "1")
    assert "outside of the model's folder" in refused(model)


def test_blobs_of_another_model(tmp_path: Path) -> None:
    snapshot = cached(tmp_path)
    other = tmp_path / "models--owner--private" / "blobs"
    other.mkdir(parents=True)
    (snapshot / "config.json").resolve().rename(other / "1")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(other / "1")
    assert "outside of the model's folder" in refused(snapshot)


def test_links_that_go_nowhere(tmp_path: Path) -> None:
    model = write(tmp_path / "model")
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("config.json")
    assert refused(model) == f"{model}/config.json: cannot be read: {os.strerror(errno.ELOOP)}"
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("gone")
    assert refused(model) == f"{model}/config.json: cannot be read: {os.strerror(errno.ENOENT)}"


def test_side_files_outside_are_left_behind(tmp_path: Path) -> None:
    model = write(tmp_path / "model")
    (tmp_path / "secret").write_text("mine")
    (model / "README.md").write_text("carried")
    (model / "LICENSE").symlink_to("README.md")
    (model / "notes.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(model / "pipe.txt")
    with time_limit():
        grown = growformer.grow_checkpoint(model, tmp_path / "out", intermediate_size=14)
    assert (tmp_path / "out" / "LICENSE").read_text() == "carried"
    assert {"notes.txt", "pipe.txt"} <= set(grown.dropped)
    assert not {"notes.txt", "pipe.txt"} & set(os.listdir(tmp_path / "out"))


# What is no file.


@pytest.mark.parametrize("name", [*FILES, INDEX])
def test_pipes_sockets_and_folders_are_not_opened(tmp_path: Path, name: str) -> None:
    model = write(tmp_path / "model")
    open_folder(model)
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    assert (
        refused(model)
        == f"{model}/{name}: expected a file, found a named pipe; nothing else in a model folder is opened"
    )
    (model / name).unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(model)  # a socket's path has at most a hundred characters
        try:
            bound.bind(name)
        finally:
            os.chdir(here)
        assert "found a socket" in refused(model)
    (model / name).unlink()
    (model / name).mkdir()
    assert "found a folder" in refused(model)


def test_devices_are_not_opened(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="found a device"):
        links.open_regular(Path("/dev/null"))


def test_a_pipe_that_takes_the_place_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    regular = os.stat(write(tmp_path / "model") / "config.json")
    monkeypatch.setattr(links.os, "stat", lambda path: regular)
    with pytest.raises(SourceError, match="found a named pipe"), time_limit(10):
        links.open_regular(tmp_path / "pipe")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    model = write(tmp_path / "model")

    def fail(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(links.os, "open", fail)
    assert refused(model) == f"{model}/config.json: cannot be read: {os.strerror(number)}"


# Indices.


@pytest.mark.parametrize(
    "file",
    [
        "/etc/passwd", "/abs/x.safetensors", "../x.safetensors", "a/../x.safetensors", "sub/x.safetensors",
        "..\\x.safetensors", "C:x.safetensors", "x\0.safetensors", "x\n.safetensors", "\ud800.safetensors",
        "n" * 300 + ".safetensors", "x.bin", "", "..", 3, None, ["x.safetensors"],
    ],
)  # fmt: skip
def test_shards_elsewhere(tmp_path: Path, file: Any) -> None:
    model = write(tmp_path / "model", shards=2)
    index = json.loads((model / INDEX).read_text())
    open_folder(model)
    index["weight_map"]["lm_head.weight"] = file
    (model / INDEX).write_text(json.dumps(index))
    assert "which is not a safetensors file beside it" in refused(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "the key 'a' stands twice"),
        ('{"metadata": {"total_size": NaN}, "weight_map": {"a": "x.safetensors"}}', "NaN is not a number here"),
        ('{"weight_map": []}', "has no weight_map"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "1 shards of"),
        ("[1]", "expected a JSON object, found list"),
        ('{"weight_map": ' + "[" * 500 + "]" * 500 + "}", "more than 64 deep"),
        ('{"weight_map": ' + "[" * 100_000, "inside of one another"),
        ("\ufeff{}", "not JSON"),
    ],
)
def test_wrong_indices(tmp_path: Path, text: str, message: str) -> None:
    model = write(tmp_path / "model", shards=2)
    (model / INDEX).write_text(text)
    assert message in refused(model)


def test_shards_that_hold_the_same(tmp_path: Path) -> None:
    model = write(tmp_path / "model", shards=2)
    first, second = sorted(model.glob("model-*.safetensors"))
    raw = second.read_bytes()
    second.write_bytes(first.read_bytes())
    assert "says that it holds" in refused(model)
    second.write_bytes(raw)
    both = dict(list(tensors("llama").items()))
    second.write_bytes(file_of(header_of(both)))
    assert "as well" in refused(model)


def test_too_many_tensors_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write(tmp_path / "model", shards=2)
    monkeypatch.setattr(storage, "MAX_TENSORS", len(tensors("llama")))
    open_folder(model)
    monkeypatch.setattr(storage, "MAX_TENSORS", len(tensors("llama")) - 1)
    assert "tensors; expected a model of fewer" in refused(model)


# JSON.


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice in one object"),
        (b'{"a": \xff}', "not UTF-8 at byte 6"),
        (b'{"a": ' + b"9" * 301 + b"}", "a number of 301 digits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}", "more than 64 deep"),
        (b'{"a": ' * 10_000, "more than 64 deep"),
        (b"[" * 1_000_001, "more than 1,000,000 objects and lists"),
        (b'{"a": [' + b"1," * 4_000_001 + b"1]}", "more than 4,000,000 values"),
        (b"x" * 64_000_001, "more than 64,000,000 bytes"),
        (b'{"a": 1} {"b": 2}', "not JSON"),
        (b"", "not JSON"),
        (b"\0", "not JSON"),
    ],
)  # fmt: skip
def test_json_that_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(SourceError) as caught, time_limit():
        plain_json.parse(raw, "x.json")
    assert str(caught.value).startswith("x.json: ")
    assert message in str(caught.value)


def test_json_that_is_read() -> None:
    text = '{"a": {"__float__": "Infinity"}, "b": NaN, "c": -Infinity, "d": "é\\ud83d\\ude00", "e": 1e999}'
    found = plain_json.parse(text.encode(), "x.json")
    assert found["a"] == {"__float__": "Infinity"}
    assert found["b"] != found["b"]
    assert found["c"] == float("-inf")
    assert plain_json.parse(b"[" * 64 + b"]" * 64, "x.json")
    assert plain_json.parse(b"9" * 300, "x.json") == int("9" * 300)


# Code.


def test_no_code_of_a_checkpoint_runs(tmp_path: Path) -> None:
    """Neither by plan nor by growth; the code is left behind, and so is its name in the config."""
    model = write(
        tmp_path / "model",
        auto_map={"AutoConfig": "modeling_x.X", "AutoModelForCausalLM": "modeling_x.X"},
        custom_pipelines={"x": {"impl": "modeling_x.X"}},
    )
    code = f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\n"
    for name in ("modeling_x.py", "__init__.py", "setup.py", "sitecustomize.py"):
        (model / name).write_text(code)
    before = listing(tmp_path)
    growformer.plan(model, intermediate_size=14)
    growformer.inspect(model)
    assert listing(tmp_path) == before
    grown = growformer.grow_checkpoint(model, tmp_path / "out", intermediate_size=14)
    assert not (tmp_path / "ran").exists()
    assert grown.dropped["modeling_x.py"] == "code; a stock class loads the result (--keep-code carries it, unread)"
    assert not list((tmp_path / "out").rglob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "ran"), "w"))

    model = write(tmp_path / "model")
    (model / "training_args.bin").write_bytes(pickle.dumps(Evil()))
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    grown = growformer.grow_checkpoint(model, tmp_path / "out", intermediate_size=14)
    assert grown.dropped["pytorch_model.bin"] == "weights in another format, of the source's sizes"
    (model / "model.safetensors").unlink()
    assert "the weights are a pickle (pytorch_model.bin), which can run code when it is opened" in refused(model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_from_the_hub_are_not_fetched(tmp_path: Path, where: str) -> None:
    """Transformers fetches code, and runs it, when a config names a repository there."""
    config = {**CONFIGS["llama"], where: "eager"}
    growformer.plan(config, intermediate_size=14)
    for value in ("owner/kernel", "owner/kernel@main:f", {"": "owner/kernel"}):
        with pytest.raises(SourceError, match="code from the hub, which transformers would fetch"):
            growformer.plan({**config, where: value}, intermediate_size=14)
        with pytest.raises(SourceError, match="code from the hub"):
            growformer.plan({**config, "text_config": {where: value}}, intermediate_size=14)


# Revisions.


def test_a_folder_has_no_revisions_of_its_own(tmp_path: Path) -> None:
    model = write(tmp_path / "model")
    assert open_folder(model).revision is None
    with pytest.raises(SourceError, match="which has no revisions"):
        open_folder(model, "main")
    snapshot = cached(tmp_path)
    assert open_folder(snapshot, COMMIT).revision == COMMIT
    with pytest.raises(SourceError, match=f"with the commit {COMMIT}"):
        open_folder(snapshot, "main")


@pytest.mark.parametrize("commit", [None, "main", "0123456", COMMIT.upper(), 7])
def test_a_hub_that_names_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: Any) -> None:
    import huggingface_hub

    class Api:
        def model_info(self, model: str, revision: str | None = None) -> Any:
            return type("Info", (), {"sha": commit})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.chdir(tmp_path)
    for read in (open_folder, storage.open_headers):
        with pytest.raises(SourceError, match="the hub names no commit for it"):
            read("owner/name")


@pytest.mark.parametrize(
    ("file", "shape", "message"),
    [
        ("model.safetensors", [61, 24], None),
        ("/etc/x.safetensors", [61, 24], "which is not a safetensors file beside it"),
        ("../x.safetensors", [61, 24], "which is not a safetensors file beside it"),
        ("model.safetensors", [61, -24], "has the shape"),
        ("model.safetensors", [61, 24.0], "has the shape"),
        ("model.safetensors", [61, 25], "expected 6100"),
    ],
)
def test_headers_from_the_hub_are_checked_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, shape: list[Any], message: str | None
) -> None:
    import huggingface_hub

    def some(**values: Any) -> Any:
        return type("Some", (), values)

    tensor = some(dtype="F32", shape=shape, data_offsets=(0, 61 * 24 * 4))
    found = some(files_metadata={file: some(tensors={"a": tensor})})
    api = some(model_info=lambda *a, **k: some(sha=COMMIT), get_safetensors_metadata=lambda *a, **k: found)
    config = write(tmp_path / "model") / "config.json"
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: str(config))
    monkeypatch.chdir(tmp_path)
    if message is None:
        assert storage.open_headers("owner/name").revision == COMMIT
    else:
        with pytest.raises(SourceError, match=message):
            storage.open_headers("owner/name")
