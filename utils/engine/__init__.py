"""The engine: run a model, read activations, and write other values in their place. Every method of the course stands on it.

May import: errors, metrics, models.
"""
from ..errors import check_arguments
from .anatomy import is_of_a_library
from .families import FAMILIES, Family, require_family
from .gradients import gradients
from .heads import head_results
from .hook_path import judged_logits
from .interventions import at_end, mlp_alone, read, run, sweep
from .layer_config import GPT2_LAYER_CONFIG, LLAMA_LAYER_CONFIG, ConfiguredModel, LayerConfig, LayerMatcher
from .patterns import for_each_query_head
from .places import Places, part_of, places
from .readout import Readout, held
from .sites import HEAD_KINDS, Each, Site, heads_at, validate, width_of
from .sweeps import prompts_at_once
from .trained_writes import Frozen, freeze
from .trust import close, facts_of, is_causal, require_sum, token_embeddings, trusted_readout
from .writing import Do, pick

check_arguments(globals())
