"""What is timed: each job, its peer, and the ratio to reach on a model of GPT-2 small's shape."""
from __future__ import annotations

from dataclasses import dataclass, field

from utils.tasks import ioi_pair

from .harness import TOLERANCE

PAIR = ioi_pair()                                   # 17 tokens with the beginning-of-text token
SECOND_SUBJECT = 10                                 # where the two prompts of PAIR differ
UNRELATED = "When Anna met Paul at her new house in Paris, Paul handed her the red"      # no token as in PAIR.clean
FACT, SUBJECT = "The Space Needle is located in the big city of", "The Space Needle"     # 10 tokens
GROWTH = (1, 4, 16, 64)                             # prompts
GROWTH_BATCH = 64                                   # rows, the same for every number of prompts
RATE_ROWS = (64, 320, 1280)                         # rows of the matrix products that the machine's rate is taken from


TARGETED, SHIPPED = "gpt2-shape", "course-gpt2"     # models: see `environment`


@dataclass(frozen=True)
class Job:
    """One piece of work that both sides do. settings: arguments of the function called `work` on both sides.

    target: ratio to reach on the model `on`, if any. share: part of the machine's matrix rate to reach there, if that is
    measured. within: seconds that our side may take there. only: whether the job is done on no other model. compare: how
    results are compared, see `harness.COMPARISONS`; tolerance: what counts as the same. warm_up: changes to the settings
    in the warm-up. repetitions: at most so many.
    """
    name: str
    title: str
    work: str
    peer: str
    target: float | None
    settings: dict = field(default_factory=dict)
    share: float | None = None
    within: float | None = None
    on: str = TARGETED
    only: bool = False
    compare: str = "numbers"
    tolerance: float = TOLERANCE
    warm_up: dict = field(default_factory=dict)
    repetitions: int | None = None

    def settings_for(self, layers: int) -> dict:
        """A window is at most the whole model."""
        window = {"window": min(self.settings["window"], layers)} if "window" in self.settings else {}
        return self.settings | window


def _ioi(corrupted: str, **more) -> dict:
    return dict(clean=PAIR.clean, corrupted=corrupted, answer=PAIR.answer, wrong=PAIR.wrong, **more)


def _trace(kind: str, window: int = 1) -> dict:
    return dict(prompt=FACT, subject=SUBJECT, kind=kind, window=window, samples=10)


def _masks(name: str, title: str, peer: str, target: float | None, **settings) -> Job:
    return Job(name, f"1,000 random masks of {title}", "masks", peer, target, settings | dict(number=1000), on=SHIPPED,
               only=True)


_IOI = dict(prompt=PAIR.clean, answer=PAIR.answer, wrong=PAIR.wrong)
_CAPITAL = dict(prompt="The capital of Poland is", answer=" Warsaw", wrong=" Paris")
_HEADS, _NEURONS = dict(kind="z", layers=[*range(8)], groups=5), dict(kind="mlp_post", layers=[4], groups=8)

JOBS = (
    Job("ioi", "IOI residual map, the prompts differ at one token", "residual_map", "peer_lens", 30,
        _ioi(PAIR.corrupted)),
    Job("unrelated", "IOI residual map, the prompts differ from the second token on", "residual_map", "peer_lens", 8,
        _ioi(UNRELATED)),
    Job("heads", "IOI maps of all heads, at END and at S2", "head_maps", "peer_lens", 10,
        _ioi(PAIR.corrupted, positions=[16, SECOND_SUBJECT])),
    Job("trace", "ROME trace of the residual stream, 10 tokens, 10 noise samples", "trace", "peer_tracer", 4.8,
        _trace("hidden"), share=0.85),
    Job("trace-mlp", "ROME trace of the MLPs, window 10", "trace", "peer_tracer", 3, _trace("mlp", 10)),
    Job("trace-attention", "ROME trace of attention, window 10", "trace", "peer_tracer", 3, _trace("attention", 10)),
    _masks("masks-neurons", "8 MLP groups in one layer, IOI prompt", "peer_loop", 8, **_IOI, **_NEURONS),
    _masks("masks-heads", "40 heads, IOI prompt", "peer_loop", 8, **_IOI, **_HEADS),
    _masks("masks-heads-short", "40 heads, prompt about a capital", "peer_loop", 8, **_CAPITAL, **_HEADS),
    _masks("masks-heads-plain", "40 heads, IOI prompt", "peer_loop_plain", None, **_IOI, **_HEADS),
)
