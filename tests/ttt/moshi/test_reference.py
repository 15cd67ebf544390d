"""The slow route itself, against the published model's forward over the whole recording."""

import torch

from tests.oracles.reference import step_by_step

FRAMES = 3 * 12 + 4


@torch.no_grad()
def test_stepping_the_published_generator_equals_the_models_forward(small_lm, speech):
    lm = small_lm(exact=True)
    audio = speech(frames=FRAMES, codebooks=16)
    stepped = step_by_step(lm, audio)
    whole = lm(torch.cat([stepped.text[:, None], audio], dim=1))
    assert stepped.audio_logits.shape == (2, 8, FRAMES, 64)
    assert (stepped.text_logits - whole.text_logits[:, 0]).abs().max() < 1e-12
    assert (stepped.audio_logits - whole.logits)[:, :, :-1].abs().max() < 1e-12
    assert torch.equal(stepped.text, stepped.text_logits.argmax(-1))
    assert stepped.audio_logits.isfinite().all()
    assert not lm.is_streaming
