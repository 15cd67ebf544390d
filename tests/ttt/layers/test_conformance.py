"""What every layer that learns while it listens must do, said in its five calls.

init_state, forward, rollback, reset, state_bytes: nothing here looks inside. Sequences are longer
than ten mini-batches.
"""

import pytest
import torch
from safetensors.torch import load, save

from ttt.layers import TTTState

BATCH, LENGTH, DIM = 3, 83, 32


@pytest.fixture
def make_layer(make_any_layer):
    return make_any_layer


@pytest.fixture
def x():
    return torch.randn(BATCH, LENGTH, DIM, dtype=torch.float64)


@torch.no_grad()
def listen(layer, x, cuts=(), state=None):
    """The outputs of x heard in pieces that end at the cuts, and the last state."""
    state = layer.init_state(len(x)) if state is None else state
    outputs = []
    for piece in x.tensor_split(list(cuts), dim=1):
        y, state = layer(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def distance(a, b):
    return (a - b).abs().max().item()


def test_an_output_ignores_what_comes_later(make_layer, x):
    layer = make_layer()
    y, _ = listen(layer, x)
    for changed in (0, 1, 7, 8, 25, 40, LENGTH - 1):
        other = x.clone()
        other[:, changed] += 1
        y_other, _ = listen(layer, other)
        assert torch.equal(y_other[:, :changed], y[:, :changed])
        assert distance(y_other[:, changed], y[:, changed]) > 1e-3


def test_what_was_heard_changes_later_answers(make_layer, x):
    layer = make_layer()
    other = x.clone()
    other[:, 3] += 1
    y, y_other = listen(layer, x)[0], listen(layer, other)[0]
    # By the next token, or, where chunks are learnt from as a whole, by those of the next chunk.
    first = 8 if layer.config.flavour == "lact" else 4
    assert torch.equal(y[:, 4:first], y_other[:, 4:first])
    assert ((y - y_other)[:, first:].abs().amax(dim=(0, 2)) > 1e-6).all()


@pytest.mark.parametrize(
    "cuts",
    [range(1, LENGTH), (8,), (7, 9), (3, 3, 40), (16, 32, 64), (1, 2, 30, 31, 70), (0, LENGTH)],
    ids=["singles", "boundary", "around", "empty piece", "boundaries", "ragged", "empty ends"],
)
def test_any_split_equals_the_whole(make_layer, x, cuts):
    layer = make_layer()
    whole, _ = listen(layer, x)
    pieces, _ = listen(layer, x, cuts)
    assert distance(whole, pieces) < 1e-12


def test_rollback_leaves_no_trace(make_layer, x):
    layer = make_layer()
    whole, _ = listen(layer, x)  # Of which no output depends on what comes later.
    for heard in (0, 5, 8, 16, 19):
        _, state = listen(layer, x[:, :heard])
        state = state.mark()
        for guessed in (1, 7, 8, 30):
            _, ahead = listen(layer, x[:, heard : heard + guessed], range(1, guessed, 3), state)
            for taken_back in range(guessed + 1):
                back = layer.rollback(ahead, taken_back)
                kept = heard + guessed - taken_back
                y, _ = listen(layer, x[:, kept : kept + 20], state=back)
                assert distance(y, whole[:, kept : kept + 20]) < 1e-12


def test_rollback_gives_the_same_bits(make_layer, x):
    layer = make_layer()
    _, state = listen(layer, x[:, :5])
    states = [state.mark()]
    for t in range(5, 40):
        states.append(listen(layer, x[:, t : t + 1], state=states[-1])[1])
    for taken_back in range(len(states)):
        back = layer.rollback(states[-1], taken_back)
        assert same(back, states[-1 - taken_back])
        # A second rollback goes on from where the first one stopped.
        assert same(layer.rollback(back, back.since_mark), states[0])


def test_rollback_stops_at_the_mark(make_layer, x):
    layer = make_layer()
    _, state = listen(layer, x[:, :20])
    with pytest.raises(ValueError, match="cannot take back 1 tokens: 0 were heard since the mark"):
        layer.rollback(state, 1)
    _, state = listen(layer, x[:, 20:30], state=state.mark())
    with pytest.raises(ValueError, match="cannot take back 11 tokens: 10 were heard"):
        layer.rollback(state, 11)
    with pytest.raises(ValueError, match="cannot take back -1 tokens"):
        layer.rollback(state, -1)


def test_rows_are_independent(make_layer, x):
    layer = make_layer()
    together, _ = listen(layer, x, (30, 31))
    for row in range(BATCH):
        alone, _ = listen(layer, x[row : row + 1], (30, 31))
        assert distance(together[row], alone[0]) < 1e-12


def test_reset_is_a_fresh_start(make_layer, x):
    layer = make_layer()
    fresh, _ = listen(layer, x)
    _, state = listen(layer, x[:, :21])
    again, _ = listen(layer, x, state=layer.reset(state, torch.ones(BATCH, dtype=torch.bool)))
    assert torch.equal(again, fresh)


@pytest.mark.parametrize("heard", [0, 8, 40])
def test_some_rows_reset_between_mini_batches(make_layer, x, heard):
    layer = make_layer()
    fresh, _ = listen(layer, x[:, heard:])
    whole, state = listen(layer, x[:, :heard]) if heard else (None, layer.init_state(BATCH))
    whole, _ = listen(layer, x)
    state = layer.reset(state, torch.tensor([False, True, False]))
    y, _ = listen(layer, x[:, heard:], state=state)
    assert distance(y[1], fresh[1]) < 1e-12
    assert distance(y[::2], whole[::2, heard:]) < 1e-12


def test_some_rows_cannot_be_reset_inside_a_mini_batch(make_layer, x):
    layer = make_layer()
    _, state = listen(layer, x[:, :19])
    with pytest.raises(ValueError, match="only at a multiple of 8 tokens, and 3 more were heard"):
        layer.reset(state, torch.tensor([False, True, False]))


def test_a_reset_cannot_be_rolled_back_over(make_layer, x):
    layer = make_layer()
    _, state = listen(layer, x[:, :19], state=layer.init_state(BATCH).mark())
    state = layer.reset(state, torch.ones(BATCH, dtype=torch.bool))
    with pytest.raises(ValueError, match="0 were heard since the mark"):
        layer.rollback(state, 1)
    _, later = listen(layer, x[:, :19], state=state)
    assert same(layer.rollback(later, 19), state)


def test_listening_leaves_the_parameters_and_the_given_state_alone(make_layer, x):
    layer = make_layer()
    parameters = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    start = layer.init_state(BATCH).mark()
    before = {name: tensor.clone() for name, tensor in start.to_tensors().items()}
    first, state = listen(layer, x, (5, 60), start)
    layer.rollback(state, 40)
    layer.reset(state, torch.ones(BATCH, dtype=torch.bool))
    assert all(torch.equal(layer.state_dict()[name], old) for name, old in parameters.items())
    assert all(torch.equal(start.to_tensors()[name], old) for name, old in before.items())
    second, _ = listen(layer, x, (5, 60))
    assert torch.equal(first, second)


def test_a_state_does_not_follow_its_parameters(make_layer, x):
    layer = make_layer()
    _, state = listen(layer, x[:, :4])
    before = {name: tensor.clone() for name, tensor in state.to_tensors().items()}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert all(torch.equal(state.to_tensors()[name], old) for name, old in before.items())


@pytest.mark.parametrize("heard", [0, 5, 16, 27])
def test_a_saved_state_goes_on_exactly(make_layer, x, heard):
    layer = make_layer()
    for state in (layer.init_state(BATCH), layer.init_state(BATCH).mark()):
        _, state = listen(layer, x[:, :heard], state=state) if heard else (None, state)
        restored = TTTState.from_tensors(load(save(state.to_tensors())))
        assert same(restored, state)
        assert restored.since_mark == state.since_mark
        y, _ = listen(layer, x[:, heard:], state=state)
        y_restored, _ = listen(layer, x[:, heard:], state=restored)
        assert torch.equal(y, y_restored)
        back = layer.rollback(restored, state.since_mark)
        assert same(back, layer.rollback(state, state.since_mark))


def test_state_bytes_bound_the_state_tightly(make_layer, x):
    layer = make_layer()
    largest = 0
    for heard in range(1, 20):
        _, state = listen(layer, x[:, :heard])
        assert state.nbytes <= layer.state_bytes(BATCH)
        _, ahead = listen(layer, x[:, heard : heard + 24], range(1, 24), state.mark())
        largest = max(largest, ahead.nbytes)
    assert largest == layer.state_bytes(BATCH, rollback_tokens=24)
    _, long = listen(layer, x, (40,))
    assert long.nbytes <= layer.state_bytes(BATCH)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("rows", [1, BATCH])
def test_a_state_keeps_nothing_else_alive(make_layer, x, heads, rows):
    layer = make_layer(num_heads=heads)
    for heard in (3, 8, 20, 40):
        _, state = listen(layer, x[:rows, :heard], state=layer.init_state(rows).mark())
        for name, tensor in state.to_tensors().items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_a_mark_takes_nothing_before_a_commit(make_layer, x):
    layer = make_layer()
    _, unmarked = listen(layer, x[:, :8])
    _, marked = listen(layer, x[:, :8], (3,), layer.init_state(BATCH).mark())
    assert marked.nbytes == unmarked.nbytes


def test_a_zero_output_projection_gives_zero(make_layer, x):
    layer = make_layer()
    with torch.no_grad():
        for parameter in layer.o_proj.parameters():
            parameter.zero_()
    assert torch.equal(listen(layer, x)[0], torch.zeros_like(x))


def test_gradients_reach_every_parameter(make_layer, x):
    layer = make_layer()
    y, _ = layer(x, layer.init_state(BATCH))
    y.square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_are_those_of_finite_differences(make_layer):
    layer = make_layer()
    x = torch.randn(1, 19, DIM, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(x)

    def loss(moved):
        return layer(moved, layer.init_state(1))[0].square().sum()

    (gradient,) = torch.autograd.grad(loss(x), x)
    with torch.no_grad():
        slope = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
    assert slope.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-6)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("heard", [0, 5, 8])
def test_checkpointing_changes_no_gradient(make_layer, x, group, heard):
    def gradients(**overrides):
        layer = make_layer(**overrides)
        _, state = layer(x[:, :heard], layer.init_state(BATCH))
        y, state = layer(x[:, heard:], state.mark())
        assert layer.rollback(state, 40).open_tokens == (LENGTH - 40) % 8
        y.square().mean().backward()
        return y.detach(), {name: p.grad for name, p in layer.named_parameters()}

    y, expected = gradients()
    y_saved, saved = gradients(checkpoint_mini_batches=group)
    assert torch.equal(y, y_saved)
    for name, gradient in expected.items():
        assert torch.allclose(saved[name], gradient, rtol=1e-12, atol=1e-15), name


def test_a_bfloat16_model_learns_in_float32(make_layer, x):
    layer = make_layer().bfloat16()
    x = x.bfloat16()
    y, state = listen(layer, x)
    assert y.dtype == torch.bfloat16
    assert {t.dtype for t in state.to_tensors().values()} == {torch.float32, torch.int64}
    exact, _ = listen(make_like(layer), x.float())
    assert distance(y.float(), exact) < 0.05 * exact.abs().max()


def test_autocast_leaves_the_state_in_float32(make_layer, x):
    layer = make_layer().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = listen(layer, x.float())
    exact, _ = listen(layer, x.float())
    assert {t.dtype for t in state.to_tensors().values()} == {torch.float32, torch.int64}
    assert distance(y.float(), exact) < 0.05 * exact.abs().max()


def make_like(layer):
    """The same parameters in float32."""
    twin = type(layer)(layer.config)
    twin.load_state_dict(layer.state_dict())
    twin.controls = layer.controls
    return twin.float()


def same(a, b):
    """Whether two states hold the same bits."""
    a, b = a.to_tensors(), b.to_tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_state_of_other_streams_is_refused(make_layer, x):
    layer = make_layer()
    with pytest.raises(ValueError, match="this state has 2 streams, this layer width 32"):
        layer(x, layer.init_state(2))
