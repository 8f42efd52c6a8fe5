"""Loading models and turning text into tokens.

`load_model` takes the name of a shipped model, a local folder or a model id of the Hugging Face hub and always returns
a TransformerLens `TransformerBridge` in evaluation mode and float32. Everything that can go wrong is said in one
sentence, as a `CourseError`.
"""
from __future__ import annotations

import difflib
import json
import re
import socket
import warnings
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, Sequence
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from jaxtyping import Int

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

CHECKPOINTS = Path(__file__).parent / "checkpoints"
SHIPPED = {"course-gpt2": "8-layer GPT-2 trained for this course on facts, givers and receivers, repeated tokens"}
HUB_EXAMPLES = ("gpt2", "gpt2-medium", "EleutherAI/pythia-160m", "meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-0.5B")
HUB_SHORT_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")


class CourseError(ValueError):
    """A mistake the reader can mend; the message says how in one sentence."""


# ---------------------------------------------------------------- loading

def load_model(name: str = "course-gpt2", device: str | None = None) -> TransformerBridge:
    """Load `name` (shipped model, local folder or hub id) on `device` (None: GPU if there is one, else CPU).

    Raises CourseError for an unknown name, a hub id that cannot be fetched, an incomplete or damaged folder, or weights
    that are not finite.
    """
    source = _resolve(str(name))
    if isinstance(source, str):
        _require_network_or_cache(source)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if Path(source).is_dir():
        _inspect_folder(Path(source))
    try:
        model = _boot(source, device)
    except CourseError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        what = (f"the folder {source.name!r} could not be loaded" if isinstance(source, Path)
                else f"{name!r} could not be loaded from the Hugging Face hub")
        raise CourseError(f"{what} ({_first_line(error)}): check the name, the files and the network, or use the "
                          "shipped model, load_model('course-gpt2')") from None
    model.eval().requires_grad_(False)
    broken = next((n for n, p in model.original_model.named_parameters() if not p.isfinite().all()), None)
    if broken:
        raise CourseError(f"the weights of {name!r} hold NaN or infinite numbers, first in {broken}: fetch or copy "
                          "them again")
    words = Path(source) / "words.txt"
    model.known_words = frozenset(words.read_text(encoding="utf-8").split()) if words.is_file() else None
    return model


def _boot(source: str | Path, device: str) -> TransformerBridge:
    """The bridge of a hub id or a folder. A folder that lacks some of the weights is refused, not filled at random."""
    import transformers  # these two take a second: only when a model is wanted
    from transformer_lens.model_bridge import TransformerBridge

    transformers.utils.logging.disable_progress_bar()
    verbosity, options = transformers.utils.logging.get_verbosity(), dict(device=device, dtype=torch.float32)
    transformers.utils.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(source, Path):
                model, info = transformers.AutoModelForCausalLM.from_pretrained(
                    source, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
                if info["missing_keys"]:
                    raise CourseError(f"the weights in {source.name!r} do not fit its config.json: "
                                      f"{min(info['missing_keys'])} is missing")
                options["hf_model"] = model.to(device)
            return TransformerBridge.boot_transformers(str(source), **options)
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


def _resolve(name: str) -> str | Path:
    if name in SHIPPED:
        return CHECKPOINTS / name
    if Path(name).is_dir():
        return Path(name)
    if name in HUB_SHORT_NAMES or re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    nearest = difflib.get_close_matches(name.lower(), [*SHIPPED, *HUB_SHORT_NAMES], n=1, cutoff=0.4)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise CourseError(f"no model is called {name!r}{hint}: shipped is {', '.join(SHIPPED)}, from the hub come for "
                      f"example {', '.join(HUB_EXAMPLES)}, and the path of a local folder works too")


def _require_network_or_cache(name: str) -> None:
    """Say at once that a hub model cannot be reached, instead of retrying for half a minute."""
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("offline mode is on")
        if not getproxies().get("https"):  # behind a proxy only the proxy needs to know the address
            _require_address(urlparse(constants.ENDPOINT).hostname)
    except OSError as error:
        raise CourseError(f"{name!r} is on the Hugging Face hub, which cannot be reached ({_first_line(error)}): "
                          "go online once to fetch it, or use the shipped model, load_model('course-gpt2')") from None


def _require_address(host: str, seconds: float = 2.0) -> None:
    """Raise OSError if `host` has no address, or none is found in time."""
    found = Queue()

    def look_up():
        try:
            socket.getaddrinfo(host, 443)
            found.put(None)
        except OSError as error:
            found.put(error)

    Thread(target=look_up, daemon=True).start()
    try:
        error = found.get(timeout=seconds)
    except Empty:
        raise OSError(f"no answer within {seconds:.0f} seconds") from None
    if error is not None:
        raise error


def _inspect_folder(folder: Path) -> None:
    """Refuse a folder that lacks a part, is no language model, or holds weights that are pickled or cut short."""
    if not (folder / "config.json").is_file():
        raise CourseError(f"the folder {folder.name!r} has no config.json, so it is not a saved model")
    try:
        made_for = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    except ValueError as error:
        raise CourseError(f"{folder.name}/config.json is damaged ({_first_line(error)}); copy it again") from None
    if re.search("Classification|QuestionAnswering", made_for[0]):
        raise CourseError(f"{folder.name!r} holds a {made_for[0]}, which predicts no words: load it with "
                          f"transformers.{made_for[0]}.from_pretrained, the functions of utils take it as it is")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pkl")]
        if pickled:
            raise CourseError(f"{folder.name!r} holds pickled weights ({pickled[0].name}), which can run foreign code "
                              "when loaded; save them with save_pretrained(..., safe_serialization=True)")
        raise CourseError(f"the folder {folder.name!r} has no weights (model.safetensors is missing)")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise CourseError(f"the folder {folder.name!r} has no tokenizer (tokenizer.json is missing)")
    from safetensors import SafetensorError, safe_open

    for file in weights:
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except SafetensorError as error:
            raise CourseError(f"{folder.name}/{file.name} is damaged or cut short ({_first_line(error)}); "
                              "fetch or copy it again") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")[:200] if str(error).strip() else type(error).__name__


# ---------------------------------------------------------------- text to tokens

@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts, padded on the right.

    tokens: [prompt, position]; mask: 1 for real tokens; ends: the last real position of each prompt, [prompt].
    """
    tokens: Int[torch.Tensor, "prompt position"]
    mask: Int[torch.Tensor, "prompt position"]
    ends: Int[torch.Tensor, "prompt"]
    labels: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, start: int, stop: int) -> Prompts:
        """The prompts from `start` up to `stop`, padded as they are."""
        return Prompts(*(column[start:stop] for column in (self.tokens, self.mask, self.ends, self.labels)))

    @property
    def equal_length(self) -> bool:
        return bool((self.mask == 1).all())


def encode(model: TransformerBridge, prompts: str | Sequence[str], *, warn: bool = True) -> Prompts:
    """Tokenise one prompt or several; the beginning-of-text token is put in front if the model uses one.

    Warns about words that a shipped model never saw. Raises CourseError for an empty prompt or one that is longer
    than the context.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise CourseError("there is no prompt: the list is empty")
    tokenizer, limit = get_tokenizer(model), model.cfg.n_ctx
    start = [tokenizer.bos_token_id] if model.cfg.default_prepend_bos and tokenizer.bos_token_id is not None else []
    rows = []
    for text in texts:
        if not text.strip():
            raise CourseError("a prompt is empty: write at least one word")
        row = start + tokenizer.encode(text, add_special_tokens=False)
        if len(row) > limit:
            raise CourseError(f"a prompt has {len(row)} tokens, but the context of this model ends at {limit}: "
                              f"shorten the prompt that starts with {text[:30]!r}")
        rows.append(row)
    if warn:
        _warn_unknown(model, texts)
    return padded(model, rows)


def padded(model: TransformerBridge, rows: Sequence[list[int]]) -> Prompts:
    """Prompts from rows of token ids of any length."""
    tokenizer, device, width = get_tokenizer(model), next(model.parameters()).device, max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    labels = tuple(tuple(tokenizer.decode([token]) for token in row) for row in rows)
    ends = torch.tensor([len(row) - 1 for row in rows])
    return Prompts(tokens.to(device), mask.to(device), ends.to(device), labels)


def get_tokenizer(model: TransformerBridge):
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise CourseError("this model has no tokenizer: load it with load_model, or set model.tokenizer")
    return tokenizer


def unknown_words(model: TransformerBridge, text: str) -> list[str]:
    """Words of `text` that never occurred in the training text of a shipped model; empty for other models."""
    known = getattr(model, "known_words", None)
    if known is None:
        return []
    return [word for word in dict.fromkeys(re.findall(r"[^\W\d_]+", text)) if word not in known]


def _warn_unknown(model: TransformerBridge, texts: Sequence[str]) -> None:
    unknown = unknown_words(model, " ".join(texts))
    if unknown:
        warnings.warn(f"the shipped model never saw the word{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}: "
                      "do not trust what it makes of this prompt (utils.tasks lists what it knows)", stacklevel=3)


def single_token(model: TransformerBridge, word: str) -> int:
    """The id of `word` (write the leading space: " Paris"). Raises CourseError if it is several tokens."""
    tokenizer = get_tokenizer(model)
    ids = tokenizer.encode(word, add_special_tokens=False)
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise CourseError("the answer is empty: write a word with its leading space, such as ' Paris'")
    pieces = " | ".join(tokenizer.decode([i]) for i in ids)
    spaced = len(tokenizer.encode(" " + word.strip(), add_special_tokens=False)) == 1
    hint = f"with a leading space, {' ' + word.strip()!r}, it is one" if spaced else "choose a word that is one token"
    raise CourseError(f"{word!r} is {len(ids)} tokens for this model ({pieces}) where one is needed: {hint}")


def answer_ids(model: TransformerBridge, answers: str | Sequence[str]) -> Int[torch.Tensor, "prompt"]:
    """One token id per answer, [prompt], on the model's device."""
    answers = [answers] if isinstance(answers, str) else answers
    return torch.tensor([single_token(model, a) for a in answers], device=next(model.parameters()).device)


def differing_positions(clean: Prompts, corrupted: Prompts) -> Int[torch.Tensor, "position"]:
    """Positions at which any clean prompt differs from its corruption. Raises CourseError if the lengths differ."""
    if len(clean) != len(corrupted):
        raise CourseError(f"{len(clean)} clean but {len(corrupted)} corrupted prompts: they must come in pairs")
    for a, b in zip(clean.labels, corrupted.labels):
        if len(a) != len(b):
            i = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            x, y = (row[i] if i < len(row) else "(end)" for row in (a, b))
            raise CourseError(f"clean and corrupted prompt must have the same number of tokens, not {len(a)} and "
                              f"{len(b)}: they part at position {i}, {x!r} against {y!r}")
    return (clean.tokens != corrupted.tokens).any(0).nonzero().flatten()


def print_difference(clean: Prompts, corrupted: Prompts) -> None:
    """Print each position at which the first clean prompt and its corruption part."""
    differing_positions(clean, corrupted)  # refuses prompts of different length
    for i, (a, b) in enumerate(zip(clean.labels[0], corrupted.labels[0])):
        if a != b:
            print(f"position {i}: {a!r} | {b!r}")
