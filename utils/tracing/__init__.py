"""Causal tracing: corrupt a subject, restore one state after another, see where the answer comes back.

May import: engine and what lies below it.
"""
from ..errors import check_arguments
from .flows import HiddenFlow, average_indirect_effect
from .queries import HiddenFlowQuery, Query
from .subjects import guess_subject, token_range
from .tracer import CausalTracer, noise_from_subjects

check_arguments(globals())
