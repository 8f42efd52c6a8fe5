"""The numbers of causal-tracer that our tracer is held to, tests/data/causal_tracer.json.

Runs in the peers' own environment (see environment.py), from the root of the repository:
`PYTHONPATH=tests PEERS_PYTHON -m benchmarks.make_tracer_numbers`. The course's tests read the file, and build the
random model with the same function.
"""
from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "utils" / "checkpoints" / "course-gpt2"
STORED = ROOT / "tests" / "data" / "causal_tracer.json"
PACKAGES = ("causal-tracer", "torch", "transformers", "numpy")
# Subjects of three, two and one token, at the start, inside and late in the prompt; odd and even windows.
PROMPTS = [("The Space Needle is located in the city of", "The Space Needle"),
           ("The Space Needle is located in the city of", "Space Needle"),
           ("The capital of France is the city of", "France")]
WORK = [("hidden", 1), ("mlp", 3), ("attention", 3), ("mlp", 4)]
CASES = [dict(model=model, prompt=prompt, subject=subject, kind=kind, window=window, samples=4)
         for model in ("course-gpt2", "random") for prompt, subject in PROMPTS for kind, window in WORK]


def random_gpt2() -> GPT2LMHeadModel:
    """A small GPT-2 whose weights come from one generator, name by name, so that every version builds the same."""
    config = GPT2Config(n_layer=4, n_head=4, n_embd=48, vocab_size=2560, n_positions=32, bos_token_id=0, eos_token_id=0)
    model, generator = GPT2LMHeadModel(config).eval().requires_grad_(False), torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator) + ("ln_" in name and "weight" in name))
    return model


def main() -> None:
    from causal_tracer import CausalTracer

    from .peer_tracer import load
    shipped, tokenizer = load(str(SHIPPED))
    models = {"course-gpt2": shipped, "random": random_gpt2()}
    tracers = {name: CausalTracer(model, tokenizer, device=torch.device("cpu")) for name, model in models.items()}
    stored = []
    for case in CASES:
        settings = {key: value for key, value in case.items() if key != "model"}
        flow = tracers[case["model"]].calculate_hidden_flow(**settings)
        stored.append(case | {
            "input_ids": flow.input_ids.tolist(), "subject_range": list(flow.subject_range), "answer": flow.answer,
            "noise": round(tracers[case["model"]].noise, 7), "low": round(flow.low_score, 7),
            "high": round(flow.high_score, 7),
            "scores": [[round(score, 7) for score in row] for row in flow.scores.tolist()]})
    lines = ",\n  ".join(json.dumps(case) for case in stored)
    versions = json.dumps({name: version(name) for name in PACKAGES})
    STORED.write_text(f'{{"versions": {versions},\n "cases": [\n  {lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
