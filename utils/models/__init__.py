"""Room of models: where they come from, loading them, and text as their tokens.

May import: errors, metrics.
"""
from ..errors import CourseError, check_arguments
from .adders import LEAST, all_sums, encode_sums, held_out, load_adder
from .bridges import context_of, inner, is_bridge, modules_of, shape_of
from .classifiers import class_ids, encode_texts, load_bert, verdicts
from .copies import like, plain_copy, untrained
from .loading import load_model
from .shelf import CHECKPOINTS
from .tokens import (Prompts, answer_ids, continuation_ids, differing_positions, encode, get_tokenizer, one_token,
                     padded, print_difference, single_token, token_ids, unknown_words)

check_arguments(globals())
