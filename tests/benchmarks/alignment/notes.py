"""What RESULTS-alignment.md says below its tables."""
from __future__ import annotations

from .jobs import FEW, HELD_OUT, PAIRS, SEARCH

NOTES = f"""## What is in the times, and what is not

- float32 on the processor. Each side is one process with the same number of threads; they take turns, one repetition
  each, and one waits while the other works. One warm-up before; loading the model is not in the times.
- One step: rotation, swap, forward, loss, backward, Adam, on the same prompts with the same subspace, for which the
  logits of both sides are compared (1e-5 of their range counts as the same). pyvene 0.1.8 runs as its tutorials do:
  `LowRankRotatedSpaceIntervention`, `use_fast`, orthogonality by PyTorch's own parametrization, gradients of the model
  off. The course computes what lies below the swap once in a search, and that is not in its step; "computed anew" puts
  it there. The lower the layer, the more is left to compute in every step, so the lowest layer is listed too; the ratio
  to reach belongs to layer 5, in the middle.
- Whole search: the frozen part, all steps, our looks at validation rows; not the tokens, and not the final score. Both
  sides have the same {SEARCH["rows"]:,} swaps of {SEARCH["graph"]}, the same site, rank, batch size ({SEARCH["batch_size"]}) and
  1,000 steps, the course's default, with Adam at their own default rates; the course holds a tenth of its swaps back
  and does not stop early here. The IIA is that on {HELD_OUT:,} swaps between sums that no side searched on; its 95%
  interval is about 0.008 wide to either side. In short searches the course's default rate is the slower one: after 100
  steps of 256 swaps its IIA was 0.963 and that of `fit_das` 0.967.
- `fit_das` cannot load a `GPT2ForSequenceClassification`. It is compared twice: on a bridge, which is how TransformerLens
  loads models, around a language model with the same trunk and the classes as its first words (equal logits are
  checked); and on the classifier itself, which runs faster than the bridge, with a hook point after each block.
- What a search costs the course depends on the site: at position 3 half of the tokens are computed in every step. The
  costliest site, position 0 after layer 0, is listed too, without a ratio to reach.
- IIA graph: the loop collects the source activations once and runs the whole classifier, as Transformers loads it by
  default, on {PAIRS["batch_size"]} pairs at a time, as many as the course. Rank {PAIRS["rank"]}, a random subspace: the cost
  of a pair does not depend on which. Only what lies above the layer is computed by the course, so the ratio grows
  with the layer. Every layer is listed, for {FEW} x {FEW} pairs; the whole graph is measured at the lowest layer that a
  ratio is to be reached at, once.
- "Largest difference" of the graph: 0 if every pair gets the same class, else how far from a tie the loop was, as a
  share of the range of its logits.
- Not measured: graphics processors, other families of models, the time to load or install.
"""
