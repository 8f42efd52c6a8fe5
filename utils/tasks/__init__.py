"""Room of tasks: prompts, facts, reviews, passages with questions, and causal models: what models are asked, and what is right.

May import: errors, metrics, models.
"""
from ..errors import check_arguments
from .causal_graphs import CausalModel, Inputs, validate_outputs
from .causal_models import (ARITHMETIC, SUMS, Counterfactuals, addition, draw, pair_labels, pattern, require_rows,
                            sample_counterfactuals, sample_inputs, split)
from .passages import Record
from .prompts import (DATA, FRANCE_POLAND, SPLITS, TABLES, Fact, IOIPrompt, ThreeNamePrompt, capital_questions,
                      country_facts, generate_repeated_tokens, held_out, ioi_dataset, ioi_pair, landmark_facts,
                      name_pair_held_out, people_facts, question_facts, question_pairs, question_prompt, table,
                      three_name_dataset, with_article)
from .reviews import LABELS, NOVELTIES, PAIRS, REVIEW_KINDS, Review
from .spans import Asked, SpanLogProbability, SpanMatch, ask, best_span, exact_match, pick_answers

check_arguments(globals())
