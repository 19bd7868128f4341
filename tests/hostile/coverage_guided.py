"""Coverage-guided fuzzing, which scripts/fuzz.py starts with an interpreter that has atheris: it never returns.

    python tests/hostile/coverage_guided.py header CORPUS -runs=10000

Options behind the folder of inputs are libFuzzer's. What a target raises ends the run with the input in a file.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import atheris

with atheris.instrument_imports(include=["growformer", "json"]):
    from tests.hostile import samples, targets

    from growformer.storage.folder import INDEX

#: Words that libFuzzer puts together; it finds others by itself in what the code compares.
WORDS = (
    '"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', '"weight_map"', '"metadata"', '"F32"', '"BF16"', "NaN",
    "Infinity", "-1", "1e999", "9223372036854775808", "null", "true", "[]", "{}", '"../x.safetensors"', '"/etc/passwd"',
    '"hidden_size"', '"num_hidden_layers"', '"rope_parameters"', '"rope_scaling"', '"layer_types"', '"architectures"',
    '"model_type"', '"head_dim"', '"text_config"', '"dtype"', "16777216", "10000", "\\\\ud800", '":', '",', "],", "},",
)  # fmt: skip


def as_file(data: bytes) -> bytes:
    """Return a safetensors file: the input itself if it begins so, or else with a length and zeros that fit it."""
    if not data.startswith(b"{"):
        return data
    return samples.file_of(data, samples.fitting(data))


def seeds(target: str) -> list[bytes]:
    """Return inputs to start from."""
    if target == "header":
        header = json.dumps(samples.header_of({"a": ((2, 3), "float32"), "b": ((5,), "int8")})).encode()
        whole = samples.header_of(samples.tensors("llama"))
        return [header, json.dumps(whole).encode(), samples.file_of(whole)]
    if target == "index":
        with tempfile.TemporaryDirectory() as home:
            return [(samples.write(Path(home) / "m", shards=2) / INDEX).read_bytes()]
    return [json.dumps(config).encode() for config in samples.CONFIGS.values()]


def main() -> None:
    """Fuzz one target."""
    target, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.parent / f"{target}.dict"
    words.write_text("".join(f'"{word if word[0] == chr(92) else json.dumps(word)[1:-1]}"\n' for word in WORDS))
    home = Path(tempfile.mkdtemp(prefix=f"growformer-fuzz-{target}-"))
    kinds = dict.fromkeys(samples.CONFIGS)

    def one(data: bytes) -> None:
        if target == "header":
            targets.read_header(as_file(data), home)
        elif target == "config":
            found = re.search(rb'"model_type":\s*"(\w+)"', data)
            kind = found[1].decode() if found else "llama"
            targets.read_config(data, home, kind if kind in kinds else "llama")
        else:
            targets.TARGETS[target](data, home)

    atheris.Setup([sys.argv[0], str(corpus), f"-dict={words}", *sys.argv[3:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
