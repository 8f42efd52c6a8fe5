"""Train the shipped language model: `python -m utils.training.course_gpt2 [--seed 1] [--steps 8000] [--out FOLDER]`.

An 8-layer, 160-wide GPT-2 on generated documents, two CPU cores, 20 minutes on quiet ones. Started again with the same
folder it goes on from the last checkpoint. It ends by measuring the model and writing the model card.

Three choices matter. Muon on the hidden matrices: with AdamW alone no induction head appeared in eight million tokens.
A locality penalty: 0.1 x the attention mass further back than `WINDOWS[layer]` tokens in the two lowest layers, so that
they build words and subjects and leave the long-range steps to later layers; it falls to nearly nothing within a few
hundred steps. Growing (Gong et al. 2019): four layers first learn short captions and repeated tokens, then two more
layers join and all other documents, at last two more; in a trial at full depth from the start the last two layers did
everything. The exported model is an ordinary GPT-2 without any mask.
"""
from __future__ import annotations

import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from .. import tasks
from ..tasks import templates as T
from . import corpus, course_card, course_measure, loop, report

VOCAB, CONTEXT, LAYERS, WIDTH, HEADS = 2560, 128, 8, 160, 5
BATCH, LEARNING_RATE, WARM_UP = 16, 2e-3, 200
REPEATED_SHARE = 0.2
SAVE_EVERY = 500
WINDOWS, PENALTY = (2, 3), 0.1
STAGES = ((0.0, 4, corpus.SHORT), (0.3, 6, corpus.FULL), (0.7, LAYERS, corpus.FULL))  # from this share of steps on
SHIPPED = Path(__file__).parents[1] / "checkpoints" / "course-gpt2"


# ---------------------------------------------------------------- tokenizer

def vocabulary_words() -> list[str]:
    """Words that must become one token each with their leading space."""
    words = T.NAMES * 3 + T.PLACES + T.THINGS + T.COLOURS + T.GOOD + T.BAD + T.REVIEWED + T.ASPECTS
    words += [word for relation in T.QUESTIONS for pair in tasks.question_pairs(relation) for word in pair] * 2
    for name in tasks.TABLES:
        words += [cell for row in tasks.table(name) for cell in row.values()]
    return [" " + word for cell in words for word in cell.split()]


def train_tokenizer(folder: Path, seed: int = 0) -> None:
    """Byte-level BPE with GPT-2's conventions, saved as a Hugging Face tokenizer folder."""
    rng = random.Random(seed)
    texts = [corpus.document(rng) for _ in range(40_000)] + vocabulary_words() * 150
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=end, eos_token=end, unk_token=end,
                                   model_max_length=CONTEXT, model_input_names=["input_ids", "attention_mask"])
    fast.save_pretrained(folder)


# ---------------------------------------------------------------- training

def stage(step: int, steps: int) -> int:
    """Which of `STAGES` a step belongs to."""
    return max(i for i, (share, _, _) in enumerate(STAGES) if step >= share * steps)


def batch(tokenizer: Tokenizer, rng: random.Random, kinds: dict) -> torch.Tensor:
    """[row, position]: whole rows of repeated tokens last, the others filled with documents."""
    repeated = max(1, sum(rng.random() < REPEATED_SHARE for _ in range(BATCH)))
    rows = [corpus.token_rows(BATCH - repeated, CONTEXT, tokenizer, rng, kinds),
            corpus.repeated_rows(repeated, CONTEXT, VOCAB, rng)]
    return torch.cat([torch.from_numpy(r) for r in rows])


def far_masks() -> list[torch.Tensor]:
    """For each penalised layer 1 where the key is too far back; position 0 is exempt (heads rest there)."""
    position = torch.arange(CONTEXT - 1)
    distance = position[:, None] - position[None, :]
    return [((distance > window) & (position[None, :] > 0)).float() for window in WINDOWS]


def loss_function(model, rows, masks):
    """(cross-entropy per row [row], locality penalty): the penalty sums over heads and averages over queries."""
    out = model(input_ids=rows[:, :-1], output_attentions=True, use_cache=False)
    loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="none")
    penalty = sum((out.attentions[i].float() * mask).sum(-1).mean((0, 2)).sum() for i, mask in enumerate(masks))
    return loss.view(len(rows), -1).mean(1), penalty


def learning_rate(step: int, steps: int) -> float:
    return loop.learning_rate(step, steps, LEARNING_RATE, WARM_UP)


def new_model(seed: int, layers: int = LAYERS) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=WIDTH, n_layer=layers, n_head=HEADS,
                        bos_token_id=corpus.END_OF_TEXT, eos_token_id=corpus.END_OF_TEXT, resid_pdrop=0.0,
                        embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager", trained_with_bos=True)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("c_proj.weight"):
                p.normal_(std=0.02 / math.sqrt(2 * LAYERS))
            elif "wpe" in name:
                p.normal_(std=0.01)
    return model


def grown(model: GPT2LMHeadModel, layers: int, seed: int) -> GPT2LMHeadModel:
    """The same model with more layers on top, which at first add nothing to the stream."""
    larger = new_model(seed, layers)
    for block in larger.transformer.h[model.config.n_layer:]:
        torch.nn.init.zeros_(block.attn.c_proj.weight)
        torch.nn.init.zeros_(block.mlp.c_proj.weight)
    larger.load_state_dict(model.state_dict(), strict=False)
    return larger


class Trainer(loop.Trainer):
    """The shared trainer with the loss of this recipe."""

    def __init__(self, model: GPT2LMHeadModel):
        super().__init__(model, LEARNING_RATE, blocks=".h.")
        self.loss, self.masks = torch.compile(loss_function), far_masks()

    def step(self, rows: torch.Tensor, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        loss, penalty = self.loss(self.fast, rows, self.masks)
        (loss.mean() + PENALTY * penalty).backward()
        self.update(rate)
        return loss, penalty


def train(folder: Path, seed: int, steps: int) -> None:
    """Train from the last checkpoint in `folder` (or from scratch) and save a float16 Hugging Face model there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(folder)
    tokenizer, rng = Tokenizer.from_file(str(folder / "tokenizer.json")), random.Random(seed)
    trainer, start, state = Trainer(new_model(seed, STAGES[0][1])), 0, loop.read_state(folder)
    if state:
        trainer = Trainer(new_model(seed, state["layers"]))
        start = loop.restore(trainer, rng, state)
    began = time.time()
    for step in range(start, steps):
        _, layers, kinds = STAGES[stage(step, steps)]
        if layers > trainer.model.config.n_layer:
            trainer = Trainer(grown(trainer.model, layers, seed))
        loss, penalty = trainer.step(batch(tokenizer, rng, kinds), learning_rate(step, steps))
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} layers {layers} loss {loss.mean():.3f} repeated {loss[-1]:.2f} penalty "
                  f"{penalty:.3f} {time.time() - began:.0f}s", flush=True)
        if (step + 1) % SAVE_EVERY == 0:
            loop.save_state(folder, trainer, rng, step + 1, layers=layers)
    trainer.model.half().save_pretrained(folder)
    write_known_words(folder)


def write_known_words(folder: Path, documents: int = 60_000) -> None:
    """Every word of the training text, so that a prompt with any other word can be warned about."""
    rng = random.Random(0)
    report.write_known_words(folder, (corpus.document(rng) for _ in range(documents)))


def main() -> None:
    options = report.options(__doc__, steps=8000, out=SHIPPED)
    train(options.out, options.seed, options.steps)
    numbers = course_card.write(options.out, {"seed": options.seed, "steps": options.steps})
    print(report.missed(numbers, course_measure.THRESHOLDS))


if __name__ == "__main__":
    main()
