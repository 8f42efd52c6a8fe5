"""Where models come from: shipped ones, local folders, the Hugging Face hub; and all that can go wrong on the way.

The loading functions of this room load with these. Every refusal is one sentence, a `CourseError`.
"""
from __future__ import annotations

import json
import re
import socket
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Iterator, Sequence
from urllib.parse import urlparse
from urllib.request import getproxies

import torch

from ..errors import CourseError, closest

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")


@dataclass(frozen=True)
class Shelf:
    """The models that one loading function offers.

    loader: its name. shipped: names of the shipped models and what they are, the first one is recommended when another
    cannot be had. examples: some ids of the hub; those without an owner (`gpt2`) are known to be there.
    """
    loader: str
    shipped: dict[str, str]
    examples: tuple[str, ...]
    short_names: tuple[str, ...] = ()

    @property
    def instead(self) -> str:
        """What to do without the network: " or ".join of the calls that always work."""
        calls = " or ".join(f"{self.loader}({name!r})" for name in self.shipped)
        return f"use {'the' if len(self.shipped) == 1 else 'a'} shipped model, {calls}"

    def find(self, name: str) -> str | Path:
        """The folder of a shipped or local model, or the hub id. Raises CourseError, with the nearest name, else."""
        if name in self.shipped:
            return CHECKPOINTS / name
        if Path(name).is_dir():
            return Path(name)
        if name in self.short_names or re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            return name
        near = closest(name, [*self.shipped, *self.short_names])
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise CourseError(f"no model is called {name!r}{hint}: shipped {'is' if len(self.shipped) == 1 else 'are'} "
                          f"{', '.join(self.shipped)}, from the hub come for example {', '.join(self.examples)}, and "
                          "the path of a local folder works too")

    def require_network_or_cache(self, name: str) -> None:
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
            raise CourseError(f"{name!r} is on the Hugging Face hub, which cannot be reached ({first_line(error)}): "
                              f"go online once to fetch it, or {self.instead}") from None

    @contextmanager
    def loading(self, source: str | Path) -> Iterator[None]:
        """Silence the loader's chatter, and say what it could not load."""
        import transformers  # takes a second: only when a model is wanted

        transformers.utils.logging.disable_progress_bar()
        verbosity = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except CourseError:
            raise
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            what = (f"the folder {source.name!r} could not be loaded" if isinstance(source, Path)
                    else f"{source!r} could not be loaded from the Hugging Face hub")
            raise CourseError(f"{what} ({first_line(error)}): check the name, the files and the network, or "
                              f"{self.instead}") from None
        finally:
            transformers.utils.logging.set_verbosity(verbosity)

    def load_plain(self, name: str, classes: Sequence[str], device: str | None = None):
        """The Hugging Face model itself, of the class that its weights were saved from, which must be one of `classes`.

        On `device` (None: GPU if there is one, else CPU), in evaluation mode, float32, eager attention, without
        gradients; `.tokenizer` and `.known_words` attached. Raises CourseError for an unknown name, a hub id that
        cannot be fetched, another class, an incomplete or damaged folder, or weights that are not finite.
        """
        source = self.find(str(name))
        if isinstance(source, Path):
            self._require_class(source.name, architecture_of(source), classes)
            require_files(source)
        else:
            self.require_network_or_cache(source)
        with self.loading(source):
            model = self._boot(source, classes)
        require_finite(str(name), model)
        model.known_words = known_words(source)
        return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval().requires_grad_(False)

    def _boot(self, source: str | Path, classes: Sequence[str]):
        import transformers  # takes a second: only when a model is wanted

        title = getattr(source, "name", source)
        made_for = (transformers.AutoConfig.from_pretrained(source).architectures or [""])[0]
        self._require_class(title, made_for, classes)
        model, info = getattr(transformers, made_for).from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        require_complete(title, info)
        model.tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        return model

    def _require_class(self, name: str, made_for: str, classes: Sequence[str]) -> None:
        if made_for not in classes:
            what = f"a {made_for}" if made_for else "a model of no named class"
            raise CourseError(f"{name!r} holds {what}, but {self.loader} takes a {' or a '.join(classes)}; a model that "
                              "predicts words is loaded with load_model")


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


# ---------------------------------------------------------------- what lies in a folder, and what came out of it

def architecture_of(folder: Path) -> str:
    """The class a saved model was made for; "" if it does not say. Raises CourseError without a sound config.json."""
    if not (folder / "config.json").is_file():
        raise CourseError(f"the folder {folder.name!r} has no config.json, so it is not a saved model")
    try:
        return (json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""])[0]
    except ValueError as error:
        raise CourseError(f"{folder.name}/config.json is damaged ({first_line(error)}); copy it again") from None


def require_files(folder: Path) -> None:
    """Refuse a folder that lacks weights or tokenizer, or holds weights that are pickled or cut short."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pkl")]
        if pickled:
            raise CourseError(f"{folder.name!r} holds pickled weights ({pickled[0].name}), which can run foreign code "
                              "when loaded; save them with save_pretrained(..., safe_serialization=True)")
        raise CourseError(f"the folder {folder.name!r} has no weights (model.safetensors is missing)")
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise CourseError(f"the folder {folder.name!r} has no tokenizer (tokenizer.json is missing)")
    from safetensors import SafetensorError, safe_open

    for file in weights:
        try:
            with safe_open(file, framework="pt") as tensors:
                tensors.keys()
        except SafetensorError as error:
            raise CourseError(f"{folder.name}/{file.name} is damaged or cut short ({first_line(error)}); "
                              "fetch or copy it again") from None


def require_complete(name: str, loading_info: dict) -> None:
    """Refuse weights of which some are missing: they would be filled at random."""
    if loading_info["missing_keys"]:
        raise CourseError(f"the weights in {name!r} do not fit its config.json: {min(loading_info['missing_keys'])} "
                          "is missing")


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
