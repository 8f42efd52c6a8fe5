"""What may be refused, and why. Every other cell of the table must be equal."""
from reference import PARALLEL

from .cases import LOADS

MASKED, CLASSIFIERS = ("bert", "roberta"), ("bert_classifier", "roberta_classifier", "gpt2_classifier")
DIRECT = ("attribution", "by heads")

# families, as what they are loaded, capabilities (None: all), reason
ALLOWED = [
    (MASKED + CLASSIFIERS, ("bridge",), None, "load_model is for models that predict the next token"),
    (MASKED + CLASSIFIERS, ("plain",), ("trace",), "a trace reads the next token"),
    (MASKED + CLASSIFIERS, ("plain",), ("lens",), "what is read off the last state is not the next token"),
    (MASKED + CLASSIFIERS[:2], ("plain",), DIRECT, "between the stream and the logits stands more than a norm and a matrix"),
    (("opt_post_norm",), LOADS, DIRECT, "the stream is normalised after each sum, so it is no sum of what was added"),
    (PARALLEL, LOADS, ("resid_mid",), "attention and MLP read the same stream, so nothing is between them"),
    (("mixtral",), LOADS, ("mlp_post", "neuron masks"), "each token has the neurons of its own experts"),
]


def reason_for(name, load, capability):
    """Why this cell may be refused; None if it must be equal."""
    return next((reason for names, loads, capabilities, reason in ALLOWED
                 if name in names and load in loads and (capabilities is None or capability in capabilities)), None)
