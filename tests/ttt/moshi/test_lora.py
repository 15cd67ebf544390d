"""LoRA of moshi-finetune, fused by us and by the published loader, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from moshi.models import loaders
from moshi.modules.lora import replace_all_linear_with_lora
from safetensors.torch import load_file, save_file
from torch import nn

from ttt.errors import UserError
from ttt.layers import TTTConfig
from ttt.moshi import insert_ttt, load_ttt, save_ttt, tiny_lm
from ttt.moshi.insert import ttt_layers
from ttt.moshi.lora import check_lora, fuse_lora, read_lora, write_lora
from ttt.moshi.tiny import tiny_arguments
from ttt.moshi.ttt_files import base_fingerprint, describe_ttt, outline_ttt

RANK, SCALING = 3, 1.7
SHAPE = {"dim": 64, "num_heads": 4, "num_layers": 2, "depformer_dim": 32}
ARGUMENTS = tiny_arguments(
    32, card=64, text_card=48, depformer_layers=2, depformer_heads=4, **SHAPE
)


def base(**overrides):
    return tiny_lm(seed=3, **SHAPE, **overrides)


def random_pairs(lm, rank=RANK):
    """What moshi-finetune leaves: a pair for every Linear, in bfloat16."""
    draw = torch.Generator().manual_seed(1)
    pairs = {}
    for name, module in lm.named_modules():
        if isinstance(module, nn.Linear):
            for part, shape in (
                ("lora_A", (rank, module.in_features)),
                ("lora_B", (module.out_features, rank)),
            ):
                made = 0.1 * torch.randn(shape, generator=draw)
                pairs[f"{name}.{part}.weight"] = made.bfloat16()
    return pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model and, in the layout of moshi-finetune, a LoRA of it."""
    lm, inside = base(), tmp_path / "checkpoint_000500" / "consolidated"
    inside.mkdir(parents=True)
    save_file(lm.state_dict(), tmp_path / "model.safetensors")
    save_file(random_pairs(lm), inside / "lora.safetensors")
    config = {**ARGUMENTS, "lora": True, "lora_rank": RANK, "lora_scaling": SCALING}
    (inside / "config.json").write_text(json.dumps(config))
    return inside.parent


def published(folder, dtype, fuse_lora=True):
    inside = folder / "consolidated"
    config = json.loads((inside / "config.json").read_text())
    weights, lora = folder.parent / "model.safetensors", inside / "lora.safetensors"
    return loaders.get_moshi_lm(
        weights, config, "cpu", dtype, lora_weights=lora, fuse_lora=fuse_lora
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_weights_are_the_published_loaders(folder, dtype):
    lm = base(dtype=dtype)
    before = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    linears = sum(isinstance(module, nn.Linear) for module in lm.modules())
    assert fuse_lora(lm, read_lora(folder)) == linears
    expected = published(folder, dtype).state_dict()
    assert lm.state_dict().keys() == expected.keys()
    for name, tensor in lm.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, expected[name])]
    assert len(changed) == linears


@torch.no_grad()
def test_a_fused_model_is_the_unfused_one_up_to_rounding(folder):
    lm, tokens = base(), torch.randint(40, (1, 17, 20))
    fuse_lora(lm, read_lora(folder))
    unfused = published(folder, torch.float32, fuse_lora=False)
    assert (lm(tokens).text_logits - unfused(tokens).text_logits).abs().max() < 1e-4


def test_what_has_no_pair_stays_and_whole_tensors_take_a_place(folder):
    """A pair of zeros by the published rule; with ft_embed, moshi-finetune keeps embeddings."""
    path, lm = folder / "consolidated" / "lora.safetensors", base()
    name, emb = "transformer.layers.1.gating.linear_in", torch.full((65, 64), 0.5)
    kept = {key: t for key, t in load_file(path).items() if key.startswith(name)}
    save_file({**kept, "emb.3.weight": emb}, path)
    before = {key: tensor.clone() for key, tensor in lm.state_dict().items()}
    assert fuse_lora(lm, read_lora(folder)) == 1
    after = lm.state_dict()
    changed = {key for key, tensor in before.items() if not torch.equal(tensor, after[key])}
    assert changed == {f"{name}.weight", "emb.3.weight"}
    assert torch.equal(after["emb.3.weight"], emb)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_has_a_pair_of_zeros_keeps_every_bit(folder, dtype):
    """Written for the published loader, which wants pairs for all; -0.0 + 0.0 would be 0.0."""
    path, lm = folder / "consolidated" / "lora.safetensors", base(dtype=dtype)
    name = "transformer.layers.1.gating.linear_in"
    tensors = load_file(path)
    save_file(
        {k: t if k.startswith(name) else torch.zeros_like(t) for k, t in tensors.items()}, path
    )
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.view(-1)[::3] = -0.0
    before = {key: tensor.clone() for key, tensor in lm.state_dict().items()}
    assert fuse_lora(lm, read_lora(folder)) == 1
    for key, tensor in lm.state_dict().items():
        same = torch.equal(tensor.view(torch.uint8), before[key].view(torch.uint8))
        assert same == (key != f"{name}.weight"), key


def test_names_of_before_are_read_as_the_published_package_reads_them(folder):
    """Once, one matrix held the maps of all steps of the depformer's attention."""
    path, lm, other = folder / "consolidated" / "lora.safetensors", base(), base()
    tensors = load_file(path)
    at = "depformer.layers.0.self_attn"
    for part in ("lora_A", "lora_B"):
        steps = [tensors.pop(f"{at}.in_projs.{step}.{part}.weight") for step in range(8)]
        tensors[f"{at}.in_proj.{part}.weight"] = torch.cat(steps)
    fuse_lora(lm, read_lora(folder))
    save_file(tensors, path)
    fuse_lora(other, read_lora(folder))
    for name, tensor in lm.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def change(folder, **tensors):
    path = folder / "consolidated" / "lora.safetensors"
    kept = {**load_file(path), **tensors}
    save_file({name: tensor for name, tensor in kept.items() if tensor is not None}, path)


LINEAR = "transformer.layers.0.gating.linear_in"


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            {"transformer.layers.1.ttt.alpha": torch.zeros(64)},
            r"lora.safetensors holds TTT layers, too \(1 tensors, the first transformer.layers.1."
            r"ttt.alpha\): bring them apart with python -m ray_jobs.import_ttt",
        ),
        (
            {"transformer.layers.0.seq_modeling_block.ttt_layer.ttt.W1": torch.zeros(2)},
            "holds TTT layers, too",
        ),
        (
            {f"{LINEAR}.lora_A.weight": torch.zeros(3, 65)},
            f"has another shape for 1 tensors of lora.safetensors, the first {LINEAR}.lora_A",
        ),
        (
            {f"{LINEAR}.lora_A.weight": torch.zeros(5, 64)},
            "config.json says lora_rank 3, and lora.safetensors has rank 5",
        ),
        ({f"{LINEAR}.lora_B.weight": None}, f"has only one of lora_A and lora_B of {LINEAR}"),
        (
            {"transformer.layers.7.gating.linear_in.lora_A.weight": torch.zeros(3, 64)},
            "has no place for 1 tensors of lora.safetensors, the first transformer.layers.7",
        ),
        ({"emb.0.weight": torch.zeros(3, 64)}, "another shape for 1 tensors"),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_and_changes_nothing(folder, tensors, sentence):
    change(folder, **tensors)
    lm = base()
    with pytest.raises(UserError, match=sentence):
        fuse_lora(lm, read_lora(folder))
    with pytest.raises(UserError, match=sentence):  # Before a model is loaded.
        check_lora(base(device="meta"), read_lora(folder))
    assert base_fingerprint(lm) == base_fingerprint(base())


def test_files_that_are_not_there_or_not_whole_are_refused(folder, tmp_path):
    inside = folder / "consolidated"
    with pytest.raises(UserError, match="not a folder of moshi-finetune's LoRA"):
        read_lora(tmp_path)
    config = (inside / "config.json").read_text()
    (inside / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json is missing, which says by how much"):
        read_lora(folder)
    (inside / "config.json").write_text(json.dumps(ARGUMENTS))
    with pytest.raises(UserError, match=r"config.json lacks 'lora_rank', which the LoRA was made"):
        read_lora(folder)
    (inside / "config.json").write_text(config)
    whole = (inside / "lora.safetensors").read_bytes()
    (inside / "lora.safetensors").write_bytes(whole[:-7])
    with pytest.raises(UserError, match="the LoRA cannot be read"):
        read_lora(folder)
    (inside / "lora.safetensors").rename(inside / "consolidated.safetensors")
    with pytest.raises(UserError, match=r"holds a whole model and no lora.safetensors: name it as"):
        read_lora(inside)


def test_a_base_with_lora_inside_is_refused(folder):
    lm = base()
    replace_all_linear_with_lora(lm, 2, 1.0)
    with pytest.raises(UserError, match="the base model has a LoRA of its own already"):
        fuse_lora(lm, read_lora(folder))


def test_a_file_without_pairs_is_refused(folder):
    path = folder / "consolidated" / "lora.safetensors"
    save_file({"emb.0.weight": torch.zeros(65, 64)}, path)
    with pytest.raises(UserError, match="holds no lora_A and lora_B of this base model"):
        check_lora(base(), read_lora(folder))


# -- beside TTT layers -----------------------------------------------------------------------------


@pytest.fixture
def together(folder, tmp_path):
    """TTT layers of the base, and beside them the LoRA that was trained with them."""
    lm = base()
    insert_ttt(lm, [1], TTTConfig(dim=64, num_heads=4))
    save_ttt(lm, tmp_path / "ttt")
    write_lora(tmp_path / "ttt", read_lora(folder), ARGUMENTS)
    return tmp_path / "ttt"


def test_layers_are_loaded_with_the_lora_beside_them(folder, together):
    lm, fused = base(), base()
    fuse_lora(fused, read_lora(folder))
    assert load_ttt(lm, together) == 1
    for name, tensor in fused.state_dict().items():
        assert torch.equal(lm.state_dict()[name], tensor), name
    told = describe_ttt(together)["lora"]
    assert (told["rank"], told["scaling"]) == (RANK, SCALING)
    outline = base(device="meta")
    assert outline_ttt(outline, together) == 1


def test_layers_written_over_others_do_not_keep_their_lora(together):
    lm = base()
    insert_ttt(lm, [0], TTTConfig(dim=64, num_heads=4))
    save_ttt(lm, together)
    assert sorted(path.name for path in together.iterdir()) == ["ttt.json", "ttt.safetensors"]
    # Where there is no LoRA, a config.json is somebody else's.
    (together / "config.json").write_text("{}")
    save_ttt(lm, together)
    assert (together / "config.json").exists()


def test_layers_whose_lora_does_not_fit_leave_the_base_alone(together):
    path = together / "lora.safetensors"
    save_file({**load_file(path), "emb.0.weight": torch.zeros(3, 64)}, path)
    lm = base()
    for load in (load_ttt, outline_ttt):
        with pytest.raises(UserError, match="another shape for 1 tensors"):
            load(lm, together)
    assert not ttt_layers(lm)
    assert base_fingerprint(lm) == base_fingerprint(base())


def test_layers_of_a_base_fit_it_with_a_lora_fused_where_that_is_said(folder, tmp_path):
    """Trained without, heard with it; and trained on the fused base."""
    plain, fused = base(), base()
    before = base_fingerprint(fused)
    fuse_lora(fused, read_lora(folder))
    for name, lm in (("plain", base()), ("fused", None)):
        if lm is None:
            lm = base()
            fuse_lora(lm, read_lora(folder))
        insert_ttt(lm, [1], TTTConfig(dim=64, num_heads=4))
        save_ttt(lm, tmp_path / name)
    with pytest.raises(UserError, match="belong to the base model"):
        load_ttt(fused, tmp_path / "plain")
    assert load_ttt(fused, tmp_path / "plain", base=before) == 1
    with pytest.raises(UserError, match="belong to the base model"):
        load_ttt(plain, tmp_path / "fused")
