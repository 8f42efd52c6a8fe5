"""Distributed alignment search: where does a network keep a variable of a causal model?

    frozen = freeze(model, prompts, Site("resid_post", 3))          # or networks.freeze_layer(mlp, features, 0)
    train, held_out = (locate(frozen, inputs, data) for data in (train_data, held_out_data))
    found = fit(frozen, train, ranks=64)
    print(iia(frozen, held_out, found.subspace))

`python -m utils.alignment sweep` does this for layers x ranks x causal models. Source: Geiger et al. 2024,
arXiv 2303.02536. May import: the methods, engine, tasks and what lies below.
"""
from ..errors import check_arguments
from .controls import MEANING, control_table, cross_scores, deal_labels, full_patch, random_iia, relabel
from .fitting import Fitted, Options, fit
from .graphs import Graphs, make_graphs, read_graphs
from .illusion import illusion_check, illusion_directions, illusion_network, split_by_readers
from .networks import embed, freeze_layer, mlp, object_vectors, train_mlp
from .results import read_results
from .scores import Pairs, iia, predict, predict_pairs
from .study import checkpoint_hash
from .subspaces import Subspace, load_subspace, orthonormal, random_subspace
from .swaps import Swaps, locate, together

__all__ = ["Fitted", "Graphs", "MEANING", "Options", "Pairs", "Subspace", "Swaps", "control_table", "cross_scores",
           "deal_labels", "fit", "full_patch", "iia", "illusion_check", "illusion_directions", "illusion_network",
           "load_subspace", "locate", "make_graphs", "orthonormal", "predict", "predict_pairs", "random_iia",
           "random_subspace", "read_graphs", "read_results", "relabel", "split_by_readers", "together"]

check_arguments(globals())
