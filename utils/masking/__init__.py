"""Masking groups of neurons or heads: what is each worth, which stand in for one another, can they be trained alone.

May import: engine and what lies below it.
"""
from ..errors import check_arguments
from .breakdowns import by_input, by_position, compare_models
from .finetuning import Examples, compare_finetuning, finetune
from .game import ABLATIONS, MaskingGame
from .groups import Groups
from .importance import Estimate, keep_one, kernel_shap, leave_one_out, rank_agreement, standard_error
from .sampling import random_masks

check_arguments(globals())
