"""The schedule against torch's OneCycleLR and against a list written down once."""

from __future__ import annotations

import pytest
import torch

from ttt.snac.train.optim import OptimConfig, learning_rates, rate_factor
from ttt.training.optim import clip_gradients
from ttt.training.schedules import one_cycle

# torch 2.9.1: OneCycleLR(AdamW, max_lr=1e-4, total_steps=10, pct_start=0.3, div_factor=25,
# final_div_factor=1e4, cycle_momentum=False).
GOLDEN = [
    4.000000000000002e-06,
    5.2000000000000004e-05,
    0.0001,
    9.504846320134737e-05,
    8.117456539497631e-05,
    6.112620219362893e-05,
    3.8874197806371076e-05,
    1.88258346050237e-05,
    4.9519367986526286e-06,
    3.9999999999999996e-10,
]


def test_golden_list() -> None:
    rates = [learning_rates(OptimConfig(), 2, step, 10)["head"] for step in range(10)]
    assert rates == pytest.approx(GOLDEN, rel=1e-12, abs=1e-20)


@pytest.mark.parametrize("total_steps", [1, 2, 3, 4, 7, 100, 1237])
@pytest.mark.parametrize(("peak", "warmup"), [(1e-4, 0.3), (3e-3, 0.05)])
def test_every_step_is_torchs(total_steps: int, peak: float, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=total_steps, pct_start=warmup, div_factor=25.0,
        final_div_factor=1e4, cycle_momentum=False,
    )  # fmt: skip
    for step in range(total_steps):
        ours = one_cycle(
            step, total_steps, peak=peak, warmup_fraction=warmup, initial_div=25.0, final_div=1e4
        )
        assert ours == pytest.approx(schedule.get_last_lr()[0], rel=1e-9, abs=1e-18)
        optimizer.step()
        if step + 1 < total_steps:
            schedule.step()


def test_phase_1_is_constant_and_the_body_has_its_own_scale() -> None:
    config = OptimConfig(body_lr_scale=0.1)
    assert [learning_rates(config, 1, step, 5) for step in range(5)] == [{"head": 5e-5}] * 5
    rates = learning_rates(config, 2, 3, 9)
    assert rates["body"] == pytest.approx(0.1 * rates["head"], rel=1e-12)


def test_rate_factors_count_from_their_step_on() -> None:
    config = OptimConfig(rate_factors={40: 0.25, 3: 2.0})
    assert [rate_factor(config, step) for step in (0, 2, 3, 39, 40, 900)] == [
        1,
        1,
        2,
        2,
        0.25,
        0.25,
    ]
    plain, scaled = (learning_rates(OptimConfig(), 2, 3, 9, factor=factor) for factor in (1.0, 2.0))
    assert scaled == {group: 2 * rate for group, rate in plain.items()}
    assert learning_rates(OptimConfig(), 1, 0, 5, factor=0.5) == {"head": 2.5e-5}
    for wrong in ({-1: 1.0}, {0: 0.0}):
        with pytest.raises(ValueError, match="rate_factors take steps from 0 on"):
            OptimConfig(rate_factors=wrong)


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_schedule_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=f"step {step} lies outside a schedule of 10 steps"):
        learning_rates(OptimConfig(), 2, step, 10)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peak_lr", 0.0),
        ("warmup_fraction", 1.0),
        ("betas", (0.9, 1.0)),
        ("weight_decay", -0.1),
        ("clip_norm", 0.0),
        ("ema_decay", 1.0),
        ("max_skipped_in_row", 0),
    ],
)
def test_settings_out_of_range_name_themselves(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        OptimConfig(**{field: value})  # pyright: ignore[reportArgumentType]


def test_clipping_scales_the_global_norm_and_returns_the_one_before() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(4))]
    for parameter, value in zip(parameters, (2.0, 1.0), strict=True):
        parameter.grad = torch.full_like(parameter, value)
    assert float(clip_gradients(parameters, None)) == pytest.approx(4.0)
    assert float(clip_gradients(parameters, 1.0)) == pytest.approx(4.0)
    assert float(clip_gradients(parameters, None)) == pytest.approx(1.0, rel=1e-5)
