"""The names of the library causal-tracer, so that code written for it runs with only its import line changed.

Nothing is done here: see `utils.tracing`, and docs/coming-from.md for what differs. May import: everything but checks,
authoring and training.
"""
from .engine import GPT2_LAYER_CONFIG, LLAMA_LAYER_CONFIG, LayerConfig, LayerMatcher
from .show.plots import plot_hidden_flow_heatmap
from .tracing import CausalTracer, HiddenFlow, HiddenFlowQuery

__all__ = ["CausalTracer", "GPT2_LAYER_CONFIG", "HiddenFlow", "HiddenFlowQuery", "LayerConfig", "LayerMatcher",
           "LLAMA_LAYER_CONFIG", "plot_hidden_flow_heatmap"]
