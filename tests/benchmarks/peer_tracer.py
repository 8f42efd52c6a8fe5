"""causal-tracer on the Hugging Face model, as its documentation loads it. Runs in the peers' own environment."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from causal_tracer import CausalTracer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

PACKAGES = ("causal-tracer", "torch", "transformers", "numpy")


def load(folder: str):
    """Model and tokenizer. The tokenizer's inputs are named, to leave out token types: GPT-2 would add them up."""
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"), bos_token=end,
                                        eos_token=end, unk_token=end,
                                        model_input_names=["input_ids", "attention_mask"])
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer


def trace(model, prompt, subject, kind, window, samples) -> dict[str, np.ndarray]:
    network, tokenizer = model
    flow = CausalTracer(network, tokenizer, device=torch.device("cpu")).calculate_hidden_flow(
        prompt, subject=subject, kind=kind, window=window, samples=samples)
    return {"scores": flow.scores.numpy(), "low": np.array(flow.low_score), "high": np.array(flow.high_score)}
