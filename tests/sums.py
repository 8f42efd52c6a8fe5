"""Small things that add: a random GPT-2 classifier as it is shipped, a random network, and a study of them in seconds."""
import torch
from small_models import LAYERS, WIDTH
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from utils.alignment import freeze_layer, mlp
from utils.alignment.study import Study
from utils.tasks import addition

SUM = addition("(X+Y)+Z", 1, 2)                                 # classes 3 to 6: four
QUICK = dict(steps=40, every=10, batch_size=16)


def summing_network():
    """A random network that takes (X, Y, Z) as it is, frozen, and all eight inputs in an order of their own."""
    inputs = SUM.all_inputs()[torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])]
    return freeze_layer(mlp((3, 12, SUM.classes), seed=1).requires_grad_(False), inputs.float(), 0), inputs


def save_adder(folder):
    """A random GPT-2 classifier with a tokenizer of its own, saved as the shipped one is."""
    words = {word: i for i, word in enumerate(["<pad>", "+", "=", *map(str, range(1, 11))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(mark, "isolated") for mark in "+="])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(n_layer=LAYERS, n_head=4, n_embd=WIDTH, vocab_size=13, n_positions=8, num_labels=28,
                        pad_token_id=0, bos_token_id=0, eos_token_id=0)
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    return folder


def study(model, /, **changes):
    return Study(**dict(model=model, layers=(1,), ranks=(3, 6 * WIDTH), graphs=("(X+Y)+Z", "X+(Y+Z)"), rows=60,
                        held_out_rows=40, steps=6, every=3, batch_size=16) | changes)
