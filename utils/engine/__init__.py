"""The engine: run a model, read activations, and write other values in their place. Every method of the course stands on it.

May import: errors, metrics, models.
"""
from .gradients import gradients
from .heads import head_results
from .hook_path import judged_logits
from .interventions import at_end, read, run, sweep
from .layer_config import GPT2_LAYER_CONFIG, LLAMA_LAYER_CONFIG, ConfiguredModel, LayerConfig, LayerMatcher
from .patterns import for_each_query_head
from .places import Places, part_of, places
from .sites import FAMILIES, HEAD_KINDS, Each, Site, heads_at, is_causal, validate
from .sweeps import prompts_at_once
from .trained_writes import Frozen, freeze
from .writing import Do, pick
