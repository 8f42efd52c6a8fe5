"""Where models come from: shipped ones, local folders, the Hugging Face hub; and all that can go wrong on the way.

The loading functions of this room load with these. Every refusal is one sentence, a `CourseError`.
"""
from __future__ import annotations

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

from ..errors import CourseError, closest
from .devices import device_called
from .folders import (architecture_of, config_of, first_line, known_words, load_fitting, require_files, require_finite,
                      require_readable)

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


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
        if Path(name).expanduser().is_dir():
            return Path(name).expanduser()
        if name in self.short_names or _may_be_on_the_hub(name):
            return name
        if re.search(r"[/\\]", name):
            raise CourseError(f"there is no folder {name!r}, and no model of the hub has such a name: write the path of a "
                              f"folder that save_pretrained wrote, or {self.instead}")
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
        source, device = self.find(str(name)), device_called(device)
        config = self.config_of(source)
        self._require_class(getattr(source, "name", source), architecture_of(config), classes)
        with self.loading(source):
            model = self._boot(source, architecture_of(config))
        require_finite(str(name), model)
        model.known_words = known_words(source)
        return model.to(device).eval().requires_grad_(False)

    def config_of(self, source: str | Path) -> dict:
        """What the config of a folder or of a hub model says. Raises CourseError for one that must not or cannot be loaded:
        without a network, cut short, pickled, quantised, or with program code of its own."""
        if isinstance(source, Path):
            config = config_of(source)
        else:
            self.require_network_or_cache(source)
            with self.loading(source):
                from transformers import AutoConfig  # takes a second: only when a model is wanted

                config = AutoConfig.from_pretrained(source, trust_remote_code=False).to_dict()
        require_readable(source, config)
        if isinstance(source, Path):
            require_files(source)
        return config

    def _boot(self, source: str | Path, made_for: str):
        import transformers  # takes a second: only when a model is wanted

        model = load_fitting(getattr(transformers, made_for), source)
        model.tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        return model

    def _require_class(self, name: str, made_for: str, classes: Sequence[str]) -> None:
        if made_for not in classes:
            what = f"a {made_for}" if made_for else "a model of no named class"
            raise CourseError(f"{name!r} holds {what}, but {self.loader} takes a {' or a '.join(classes)}; a model that "
                              "predicts words is loaded with load_model")


def _may_be_on_the_hub(name: str) -> bool:
    """True for owner/model as the hub spells it; "../my-model" is none."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


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
