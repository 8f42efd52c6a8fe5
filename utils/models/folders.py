"""What lies in the folder of a saved model, what must never be read from it, and whether its weights fit its config.

Every refusal is one sentence, a `CourseError`. Nothing here runs or unpickles what it finds.
"""
from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from ..errors import CourseError, warn

TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")
SAFE = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


def config_of(folder: Path) -> dict:
    """What config.json says. Raises CourseError if it is missing or damaged."""
    if not (folder / "config.json").is_file():
        raise CourseError(f"the folder {folder.name!r} has no config.json, so it is not a saved model")
    return _json(folder / "config.json")


def _json(file: Path) -> dict:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CourseError(f"{file.parent.name}/{file.name} is damaged ({first_line(error)}); copy it again") from None
    if not isinstance(found, dict):
        raise CourseError(f"{file.parent.name}/{file.name} is damaged (it holds no settings); copy it again")
    return found


def architecture_of(config: dict) -> str:
    """The class a saved model was made for; "" if it does not say."""
    return (config.get("architectures") or [""])[0]


def require_readable(source: str | Path, config: dict) -> None:
    """Refuse what would need foreign code or a quantiser to be read."""
    name, own_code = getattr(source, "name", source), isinstance(source, Path) and "auto_map" in config
    if isinstance(source, Path) and (source / "tokenizer_config.json").is_file():
        own_code = own_code or "auto_map" in _json(source / "tokenizer_config.json")
    if own_code:
        raise CourseError(f"{name!r} brings program code of its own (auto_map), which is never run here: take auto_map out "
                          "of config.json and tokenizer_config.json if transformers knows the model without it")
    if config.get("quantization_config"):
        raise CourseError(f"the weights of {name!r} are quantised, and what is read and written here must be exact: load "
                          "the model that they were made from")


def require_files(folder: Path) -> None:
    """Refuse a folder that lacks weights or tokenizer, or holds weights that are pickled or cut short.

    Pickled weights beside safe ones are never read; a warning says so.
    """
    pickled = sorted(file for pattern in PICKLES for file in folder.glob(pattern) if file.name != "training_args.bin")
    if not any((folder / name).is_file() for name in SAFE):
        if pickled:
            raise CourseError(f"{folder.name!r} holds pickled weights ({pickled[0].name}), which can run foreign code "
                              "when loaded; save them with save_pretrained(..., safe_serialization=True)")
        raise CourseError(f"the folder {folder.name!r} has no weights (model.safetensors is missing)")
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise CourseError(f"the folder {folder.name!r} has no tokenizer (tokenizer.json is missing)")
    if pickled:
        warn(f"{folder.name!r} holds pickled weights too ({pickled[0].name}): they are never read, only "
             "model.safetensors is")
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except SafetensorError as error:
            raise CourseError(f"{folder.name}/{file.name} is damaged or cut short ({first_line(error)}); "
                              "fetch or copy it again") from None


def load_fitting(loader, source: str | Path):
    """The model that `loader` (a class of transformers) reads from `source`, in float32, with eager attention.

    First without memory, on the "meta" device, from the names and shapes of the weights alone. Raises CourseError if weights
    are missing (they would be filled at random), have another shape, or (in a folder) are left over in a block.
    """
    options = dict(dtype=torch.float32, attn_implementation="eager", trust_remote_code=False)
    if isinstance(source, Path):
        options["use_safetensors"] = True
    _, found = loader.from_pretrained(source, device_map="meta", ignore_mismatched_sizes=True, output_loading_info=True,
                                      **options)
    opening = f"the weights in {getattr(source, 'name', source)!r} do not fit its config.json: "
    if found["missing_keys"]:
        raise CourseError(f"{opening}{min(found['missing_keys'])} is missing")
    if found["mismatched_keys"]:
        name, own, expected = min(found["mismatched_keys"])
        raise CourseError(f"{opening}{name} has shape {tuple(own)}, not {tuple(expected)}")
    left_over = [name for name in found["unexpected_keys"] if re.search(r"\.\d+\.", f".{name}")]
    if left_over and isinstance(source, Path):
        raise CourseError(f"{opening}it has no place for {min(left_over)}")
    return loader.from_pretrained(source, **options)


def require_finite(name: str, model) -> None:
    broken = next((n for n, p in model.named_parameters() if not p.isfinite().all()), None)
    if broken:
        raise CourseError(f"the weights of {name!r} hold NaN or infinite numbers, first in {broken}: fetch or copy "
                          "them again")


def known_words(source: str | Path) -> frozenset[str] | None:
    """The words a shipped model was trained on; None for a model that has no list of them."""
    words = Path(source) / "words.txt"
    return frozenset(words.read_text(encoding="utf-8").split()) if words.is_file() else None


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")[:200] if str(error).strip() else type(error).__name__
