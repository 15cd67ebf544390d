"""What a training leaves: its best decoder, and what is fitted beside it at the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor

from ray_jobs.decoder.train.plan import TrainPlan, kept_out_windows
from ray_jobs.decoder.train.starts import untrained
from ttt import checkpoint, storage
from ttt.errors import UserError
from ttt.snac.discriminators import Discriminators, save
from ttt.snac.model import Decoder48k
from ttt.snac.noise_floor import NoiseFloor
from ttt.snac.train.adversarial import NAME
from ttt.snac.train.floor_fit import fit_floor, hear_windows
from ttt.snac.train.validation import fit_on_windows


def export_best(plan: TrainPlan, export: str | None = None) -> str:
    """Write the best checkpoint's decoder (the newest's without validation) into the folder
    `export`, RUN/export by default, and return it; its discriminators go into a folder in there.

    The cheap tricks are fitted on the validation windows beside it, for evaluations to use, and
    its noise floor where the configuration asks for one. Raises UserError when there is no
    checkpoint.
    """
    config, setup, tricks = plan.config, plan.setup, None
    _best_checkpoint(plan)
    if setup.validation is not None:
        print(f"fitting hiss and folding on {setup.validation.n_windows} windows", flush=True)
        tricks = fit_on_windows(untrained(config, setup.codec), setup.validation)
    model, tensors = _best_decoder(plan)
    model.noise_floor = _fitted_floor(plan)
    export = export or storage.join(config.run, "export")
    if config.adversarial is not None:
        networks = Discriminators(config.adversarial.discriminators)
        networks.load_state_dict(tensors[NAME])
        save(networks, storage.join(export, NAME))
    if storage.is_local(export):
        model.save_pretrained(storage.local_path(export), tricks=tricks)
        return export
    with tempfile.TemporaryDirectory() as staged:
        model.save_pretrained(staged, tricks=tricks)
        for path in sorted(Path(staged).iterdir()):
            storage.write_bytes(storage.join(export, path.name), path.read_bytes())
    return export


def _fitted_floor(plan: TrainPlan) -> NoiseFloor | None:
    """The floor that the configuration asks for, where one lowers LSD-HF; says what was found.

    Each best decoder is heard on the clips that its training did not hear.
    """
    config = plan.config.noise_floor
    if config is None:
        return None
    most = config.max_windows // max(config.folds, 1)
    heard = [
        window
        for each in plan.folds or (plan,)
        for window in hear_windows(_best_decoder(each)[0], kept_out_windows(each, most))
    ]
    print(f"fitting a noise floor on {len(heard)} windows", flush=True)
    fitted = fit_floor(heard, seed=config.seed, folds=config.folds)
    if fitted is None:
        print("no noise floor: no window is long enough and finite", flush=True)
        return None
    print(fitted.sentence, flush=True)
    return fitted.floor


def _best_decoder(plan: TrainPlan) -> tuple[Decoder48k, dict[str, dict[str, Tensor]]]:
    """The best checkpoint's decoder, and all its tensors."""
    model = untrained(plan.config, plan.setup.codec)
    tensors = checkpoint.load(_best_checkpoint(plan)).tensors
    model.load_state_dict(tensors.get("ema", tensors["model"]))
    return model.eval(), tensors


def _best_checkpoint(plan: TrainPlan) -> str:
    run = plan.config.run
    folder = checkpoint.best(run) or checkpoint.newest_complete(run)
    if folder is None:
        raise UserError(f"{run}: no checkpoint to export")
    return folder
