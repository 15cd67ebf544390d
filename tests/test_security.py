"""Nothing read from disk runs code, nothing of a user's reaches a shell, nothing listens in public.

One half of the tests searches the sources, the other half tries: a file that would run a command
when it is unpickled is put wherever the project reads files.
"""

import json
import os
import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ray_jobs.config.load import load_config
from ray_jobs.config.schema import JOB_CONFIGS, config_class
from tests.dangers import dangers, python_in_shell
from tests.nano_cache import write_nano_cache, write_nano_codec
from tests.ttt.eval.scored_pairs import made_pairs, noisy, records
from ttt import checkpoint
from ttt.errors import UserError
from ttt.eval.chapters.records import read_record
from ttt.eval.pairs.records import is_complete, read_part, write_part
from ttt.moshi.load import load_mimi, load_moshi
from ttt.moshi.tiny import tiny_lm
from ttt.moshi.ttt_files import load_ttt
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.original import list_original
from ttt.snac.cache.shards import build_index
from ttt.snac.cache.verify import verify_cache
from ttt.snac.code_files import read_codes
from ttt.snac.geometry import CodeGeometry
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for folder in ("ttt", "ray_jobs", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
GEOMETRY = CodeGeometry.preset("snac_24khz")
PUBLIC = re.compile(
    r"LoadBalancer|NodePort|enableIngress: true|0\.0\.0\.0"
    r"|dashboard-host[=: \"']+(?!127\.0\.0\.1)|RAY_AUTH_MODE[=: \"']+disabled"
)


# What a program can look for.


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_or_calls_a_shell(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


def test_no_program_inside_a_script_unpickles_or_calls_a_shell():
    programs = 0
    for path in (ROOT / "cluster").rglob("*"):
        if path.is_file():
            for program in python_in_shell(path.read_text(encoding="utf-8")):
                assert dangers(program) == [], path.name
                programs += 1
    assert programs >= 2


def test_the_search_finds_programs_inside_scripts():
    script = (
        "python -c 'one()' > file\n"
        'python3.11 -c "two()"\n'
        "python -m module -c 'no program'\n"
        "python - \"$word\" << 'END'\nthree()\n\nthree()\nEND\n"
        "python <<HERE\nfour()\nHERE\n"
    )
    assert python_in_shell(script) == ["one()", "two()", "three()\n\nthree()", "four()"]


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "import torch; torch.load(path, **options)",
        "import torch; functools.partial(torch.load, map_location='cpu')",
        "import torch; partial(open, weights_only=False)",
        "import torch; read = torch.load",
        "import torch; getattr(torch, name)(path)",
        "import torch as t; t.load(path)",
        "from torch import load",
        "from torch import load as read; read(path)",
        "from torch.serialization import load",
        "import torch; torch.jit.load(path)",
        "import torch; torch.hub.load(repo, name)",
        "from torch import hub; hub.load_state_dict_from_url(url)",
        "import torch.distributed.checkpoint as dcp; dcp.load(state)",
        "import pickle; pickle.load(file)",
        "import pickle; pickle.Unpickler(file).load()",
        "import pickle; map(pickle.loads, texts)",
        "import pickle; read(pickle)",
        "import pickle as p; p.loads(content)",
        "from pickle import loads",
        "from pickle import loads as read",
        "from pickle import *",
        "import _pickle",
        "import cloudpickle",
        "import ray; ray.cloudpickle.loads(content)",
        "import ray.cloudpickle",
        "from ray import cloudpickle",
        "from ttt.checkpoint import pickle; pickle.loads(content)",
        "import dill; dill.load_session(path)",
        "import joblib; joblib.load(path)",
        "import marshal, shelve",
        "import pandas as pd; pd.read_pickle(path)",
        "import numpy as np; np.load(path)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "import numpy as np; np.load(path, None, allow)",
        "import numpy as np; np.lib.format.read_array(file, allow_pickle=True)",
        "import numpy as np; np.lib.format.read_array(file, True)",
        "from numpy.lib.format import read_array",
        "import yaml; yaml.load(text)",
        "import yaml; yaml.load(text, Loader=yaml.Loader)",
        "import yaml; yaml.load(text, Loader=_Loader)",
        "import yaml; yaml.load(text, Loader=_Loader)\nclass _Loader(yaml.FullLoader): ...",
        "import yaml; yaml.load(text, Loader=_Loader)\nclass _Loader(yaml.SafeLoader, Other): ...",
        "import yaml\nfrom ray_jobs.config.yaml_tree import _Loader\n"
        "yaml.load(text, Loader=_Loader)",
        "import yaml; yaml.unsafe_load(text)",
        "import yaml; yaml.unsafe_load_all(text)",
        "import yaml; yaml.full_load(text)",
        "import yaml; yaml.full_load_all(text)",
        "import yaml; yaml.load_all(text, Loader=yaml.SafeLoader)",
        "from ray import tune; tune.Tuner.restore(path, trainable)",
        "from ray.tune import Tuner; Tuner.restore(path, trainable)",
        "import ray.train.torch; ray.train.torch.TorchTrainer.restore(path)",
        "from ray.tune.search.optuna import OptunaSearch; OptunaSearch.restore_from_dir(path)",
        "import ray.train; ray.train.Result.from_path(path)",
        "from ray.tune import ExperimentAnalysis",
        "import os; os.system(text)",
        "import os; os.popen(text)",
        "from os import system",
        "import subprocess; subprocess.run(text, shell=True)",
        "import subprocess; subprocess.run(text, shell=given)",
        "import subprocess; subprocess.run(text, **options)",
        "import subprocess; subprocess.run(*words)",
        "import subprocess; subprocess.Popen(text, -1, None, None, None, None, None, True, True)",
        "from subprocess import check_output as run; run(text, shell=True)",
        "import subprocess; partial(subprocess.run, shell=True)",
        "import subprocess; subprocess.getoutput(text)",
        "import subprocess; subprocess.getstatusoutput(text)",
        "import asyncio; asyncio.create_subprocess_shell(text)",
        "loop().subprocess_shell(factory, text)",
        "eval(text)",
        "exec(text)",
        "import builtins; builtins.eval(text)",
        "__import__(name)",
        "import runpy; runpy.run_path(path)",
    ],
)
def test_the_search_finds(source):
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path, weights_only=True)",
        "import torch as t; t.load(io.BytesIO(content), map_location='cpu', weights_only=True)",
        "import pickle\ntry: ...\nexcept (OSError, pickle.UnpicklingError): ...",
        "from pickle import UnpicklingError",
        "import safetensors.torch; safetensors.torch.load_file(path)",
        "from safetensors.torch import load; load(content)",
        "import json; json.load(file)",
        "import numpy as np; np.load(path, allow_pickle=False)",
        "import numpy as np; np.loadtxt(path)",
        "import numpy as np; np.lib.format.read_array(file, allow_pickle=False)",
        "import yaml; yaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml; yaml.load(text, Loader=_Loader)\nclass _Loader(yaml.SafeLoader): ...",
        "import yaml; yaml.safe_load(text); yaml.dump_all(trees)",
        "model.eval(); training.restore(folder); model.load_state_dict(weights)",
        "import ray; ray.get(actor.restore.remote())",
        "import subprocess; subprocess.run(['git', 'describe'], check=True)",
        "import subprocess; subprocess.run(words, shell=False)",
        "import re; re.compile(text)",
    ],
)
def test_the_search_leaves_alone(source):
    assert dangers(source) == []


def test_no_shipped_file_opens_a_port_to_everybody():
    files = [path for path in (ROOT / "cluster").rglob("*") if path.is_file()]
    for path in [*files, ROOT / "Makefile", ROOT / "README.md"]:
        found = PUBLIC.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.name}: {found}"
    for example in (
        "serviceType: LoadBalancer",
        "type: NodePort",
        "--dashboard-host=0.0.0.0",
        'dashboard-host: "0.0.0.0"',
        "RAY_AUTH_MODE: disabled",
        "CidrIp: 0.0.0.0/0",
    ):
        assert PUBLIC.search(example), example


# What an attacker would try.


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def bomb(tmp_path):
    """Something to pickle; the test fails when anything has unpickled it."""
    mark = tmp_path / "exploded"
    yield Bomb(mark)
    assert not mark.exists(), "what was read has run"


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def test_a_checkpoint_that_would_run_code(tmp_path, bomb):
    snapshot = checkpoint.Snapshot(
        step=1, tensors={"model": {"w": torch.zeros(2)}}, optimizer={}, state={}
    )
    folder = Path(checkpoint.save(str(tmp_path / "run"), snapshot))
    torch.save({"state": bomb}, folder / "optimizer.pt")
    content = (folder / "optimizer.pt").read_bytes()
    marker = json.loads((folder / "COMPLETE").read_text())
    marker["files"]["optimizer.pt"] = {"bytes": len(content), "crc32": zlib.crc32(content)}
    (folder / "COMPLETE").write_text(json.dumps(marker))
    with pytest.raises(UserError, match=r"optimizer\.pt: holds more than tensors .* not read"):
        checkpoint.load(str(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_codec_that_would_run_code(tmp_path, bomb, name):
    folder = write_nano_codec(tmp_path / "codec")
    (folder / "pytorch_model.bin").unlink()
    torch.save({"weights": bomb}, folder / name)
    with pytest.raises(UserError, match=f"{name}: cannot be read as weights"):
        load_codec(str(folder))


def test_a_decoder_that_would_run_code(tmp_path, bomb):
    decoder = Decoder48k.from_snac(load_codec(str(write_nano_codec(tmp_path / "codec"))).model)
    decoder.save_pretrained(tmp_path / "export")
    torch.save({"weights": bomb}, tmp_path / "export/model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        Decoder48k.from_pretrained(tmp_path / "export")


@pytest.mark.parametrize("load", [load_moshi, load_mimi])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".sft", ""])
def test_a_moshi_that_would_run_code(tmp_path, bomb, load, suffix):
    shipped = ROOT / "ttt/assets/tiny_moshi_pair/baseline/config.json"
    names = {"moshi_name": f"moshi{suffix}", "mimi_name": f"mimi{suffix}"}
    config = {**json.loads(shipped.read_text()), **names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in names.values():
        torch.save({"model": bomb, "fsdp_best_state": bomb}, tmp_path / name)
    with pytest.raises(UserError, match=r"not a \.safetensors file|cannot be loaded as M"):
        load(str(tmp_path))


def test_ttt_layers_that_would_run_code(tmp_path, bomb):
    torch.save(bomb, tmp_path / "ttt.safetensors")
    (tmp_path / "ttt.json").write_text("{}")
    with pytest.raises(UserError):
        load_ttt(tiny_lm(), tmp_path)


def test_codes_that_would_run_code(tmp_path, bomb):
    torch.save([bomb], tmp_path / "codes.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(bomb, protocol=2))
    (tmp_path / "codes.safetensors").write_bytes(pickle.dumps(bomb))
    np.save(tmp_path / "codes.npy", np.array([bomb], dtype=object), allow_pickle=True)
    for name in ("codes.pt", "plain.pt", "codes.safetensors", "codes.npy"):
        with pytest.raises(UserError):
            read_codes(tmp_path / name, GEOMETRY)


def pickled_column(bomb: Bomb, length: int = 1) -> pa.Array:
    """A column of the type in which Ray keeps Python objects; reading a value unpickles it."""
    import ray.data  # registers the type, as in every process of a job
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    assert ray.data
    content = pa.array([pickle.dumps(bomb)] * length, pa.large_binary())
    return pa.ExtensionArray.from_storage(ArrowPythonObjectType(), content)


def with_pickles(table: pa.Table, name: str, bomb: Bomb) -> pa.Table:
    """The table with pickles as a column's values."""
    place = table.schema.get_field_index(name)
    return _with_column(table, place, name, pickled_column(bomb, len(table)))


def with_pickled_type(table: pa.Table, name: str, bomb: Bomb) -> pa.Table:
    """The table with a pickle as the shape of a column's tensors: opening the file reads it."""
    return with_tensor_type(table, name, pickle.dumps(bomb))


def with_tensor_type(table: pa.Table, name: str, shape: bytes) -> pa.Table:
    """The table with a column of Ray's tensors, of a shape as the file tells it."""
    import ray.data  # registers the type, as in every process of a job

    assert ray.data
    described = {
        "ARROW:extension:name": "ray.data.arrow_tensor",
        "ARROW:extension:metadata": shape,
    }
    column = pa.array([[0]] * len(table), pa.list_(pa.int64()))
    field = pa.field(name, column.type, metadata=described)
    return _with_column(table, table.schema.get_field_index(name), field, column)


def _with_column(table: pa.Table, place: int, field: pa.Field | str, column: pa.Array) -> pa.Table:
    changed = table.set_column(place, field, pa.chunked_array([column]))
    return changed.replace_schema_metadata(table.schema.metadata)


IN_PARQUET = pytest.mark.parametrize(
    ("hide", "said"),
    [
        (with_pickles, "{column} holds extension|type: {column}"),
        (with_pickled_type, "the type of a column cannot be read"),
    ],
)


@IN_PARQUET
@pytest.mark.parametrize("column", ["file_path", "codes_scale_1", "audio_length"])
def test_an_original_cache_that_would_run_code(tmp_path, bomb, column, hide, said):
    table = {
        "file_path": pa.array(["a.wav"]),
        **{f"codes_scale_{k}": pa.array([[0] * 2**k]) for k in range(3)},
        "audio_length": pa.array([2048]),
    }
    path = tmp_path / "codes_batch_gpu0_0.parquet"
    pq.write_table(hide(pa.table(table), column, bomb), path)
    with pytest.raises(UserError, match=said.format(column=column)):
        list_original(str(tmp_path), str(tmp_path), GEOMETRY)


@IN_PARQUET
def test_a_shard_that_would_run_code(tmp_path, bomb, hide, said):
    cache = write_nano_cache(tmp_path / "cache", 2)
    (shard,) = (cache / "shards").glob("*.parquet")
    pq.write_table(hide(pq.read_table(shard), "clip_id", bomb), shard)
    said = said.format(column="clip_id")
    (problem,) = verify_cache(str(cache))
    assert re.search(said, problem)
    with pytest.raises(UserError, match=said):
        build_index(cache)


@pytest.mark.parametrize("shape", [b"", b"5", b"[" * 100_000], ids=["nothing", "number", "deep"])
def test_a_shard_with_a_type_described_wrongly(tmp_path, shape):
    cache = write_nano_cache(tmp_path / "cache", 2)
    (shard,) = (cache / "shards").glob("*.parquet")
    pq.write_table(with_tensor_type(pq.read_table(shard), "clip_id", shape), shard)
    with pytest.raises(UserError, match="the type of a column cannot be read"):
        build_index(cache)


@pytest.mark.parametrize("shape", [b"", b"5", b"[" * 100_000], ids=["nothing", "number", "deep"])
@pytest.mark.parametrize("read", [read_record, read_part, is_complete])
def test_records_with_a_type_described_wrongly(tmp_path, read, shape):
    table = with_tensor_type(pa.table({"status": ["ok"]}), "status", shape)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: .*the type of a column cannot be read"):
        read(tmp_path / "a.parquet")


@IN_PARQUET
def test_an_index_that_would_run_code(tmp_path, bomb, hide, said):
    cache = write_nano_cache(tmp_path / "cache", 2)
    index = cache / "index.arrow"
    with pa.ipc.open_file(pa.py_buffer(index.read_bytes())) as reader:
        table = hide(reader.read_all(), "clip_id", bomb)
    with pa.ipc.new_file(str(index), table.schema) as writer:
        writer.write_table(table)
    (problem,) = verify_cache(str(cache))
    assert "index.arrow: differs" in problem
    with pytest.raises(UserError, match=said.format(column="clip_id")):
        open_cache(str(cache))


@pytest.mark.parametrize("read", [read_record, read_part])
def test_records_that_would_run_code(tmp_path, bomb, read):
    path = tmp_path / "part-00000.parquet"
    column = pickled_column(bomb)
    for metadata in ({}, {"ttt.record": "{}"}):
        pq.write_table(pa.table({"text": column}).replace_schema_metadata(metadata), path)
        with pytest.raises(UserError):
            read(path)


@pytest.mark.parametrize("read", [read_part, is_complete])
def test_scores_of_pairs_that_would_run_code(tmp_path, bomb, read):
    path = tmp_path / "part-00000.parquet"
    write_part(path, records(made_pairs(clusters=4).pairs, noisy(0)))
    pq.write_table(with_pickles(pq.read_table(path), "status", bomb), path)
    with pytest.raises(UserError, match=r"part-00000\.parquet: .*other columns than a pair's"):
        read(path)


@pytest.mark.parametrize("job", JOB_CONFIGS)
def test_a_configuration_that_would_run_code(tmp_path, bomb, job):
    text = f"!!python/object/apply:os.mkdir ['{bomb.mark}']"
    path = tmp_path / "config.yaml"
    path.write_text(f"output: {text}\n")
    with pytest.raises(UserError):
        load_config(config_class(job), path)
    with pytest.raises(UserError):
        load_config(config_class(job), None, [f"output={text}"])


def test_values_with_shell_characters_stay_values(tmp_path):
    hostile = f"$(mkdir {tmp_path}/a)`mkdir {tmp_path}/b`;mkdir {tmp_path}/c|x&\n'\""
    config = load_config(
        config_class("decode_codes"),
        ROOT / "configs/decode.yaml",
        [f"decoder={json.dumps(hostile)}", f"output={json.dumps(hostile)}"],
    )
    assert config.to_dict()["decoder"] == hostile
    assert list(tmp_path.iterdir()) == []


def test_the_page_names_what_exists():
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    names = re.findall(r"`((?:cluster|ray_jobs|tests)/[\w./]+)`", text)
    assert len(names) > 10
    for name in names:
        assert (ROOT / name).is_file(), name
