"""What training over chapters takes, computed before it starts: bytes, arithmetic and hours.

The model may be on the meta device, so nothing is loaded: a job's --dry-run asks here. The sums
are held to what the pretended card counts (tests/fake_cuda).
"""

from ttt.moshi.training.estimate.cost import FrameFlops, frame_flops, gpu_hours
from ttt.moshi.training.estimate.need import Advice, TrainingBytes, advice, training_bytes
from ttt.moshi.training.estimate.validation import ValidationBytes, validation_bytes

__all__ = [
    "Advice",
    "FrameFlops",
    "TrainingBytes",
    "ValidationBytes",
    "advice",
    "frame_flops",
    "gpu_hours",
    "training_bytes",
    "validation_bytes",
]
