"""Which algorithm on which input: cliques of inputs that one causal model explains, rules for them, and several models together.

May import: errors, metrics.
"""
from ..errors import check_arguments
from .cliques import HEURISTICS, METHODS, find_clique, mutual, shuffled_pairs
from .combining import claim, combine, evaluate_parts, trade_off
from .rules import features, find_rules

check_arguments(globals())
