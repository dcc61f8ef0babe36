"""`TextWriter`: a local language model of transformers that rewords captions, kept by content."""

import os
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from factory.catalog.entries import LicenceTerms, Strict
from factory.core.errors import InputError
from factory.core.files.store import FileStore
from factory.core.hashing import compute_digest, hash_bytes
from factory.models.generators.quiet import listen_to_libraries
from factory.models.generators.weights import (
    compute_weights_digest,
    find_cached,
    hash_file,
    is_pinned,
    name_revision,
)

TEMPLATE = (
    "Reword this caption of a histology image in one sentence. Keep every fact and every technical "
    "term, and add none.\nCaption: {caption}\nReworded:"
)
READING = (
    *("config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt", "*.model"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*"),
)
"""Files beside the weights that its words follow from."""
CACHE = "FACTORY_CACHE"
"""Variable of the folder where texts are kept, as features are."""


class WriterSettings(Strict):
    """A language model that rewords captions."""

    model: str = Field(min_length=1, description="folder, or Hub id that was downloaded before")
    revision: str | None = Field(None, description="full commit of a Hub id")
    template: str = Field(TEMPLATE, description="what it is asked; {caption} is the rule's text")
    max_new_tokens: int = Field(64, ge=1, le=512)
    temperature: float | None = Field(
        None, gt=0, le=2, description="sampled, by a seed of each image; default: greedy"
    )
    licence: LicenceTerms | None = Field(None, description="its terms as you read them")


class Writer(Protocol):
    """What rewords captions."""

    def describe(self) -> dict[str, Any]:
        """Returns what its texts follow from: model, revision, weights, template, limits."""
        ...

    def write(self, caption: str, seed: int) -> str:
        """Returns other words for a caption, perhaps poor ones; equal arguments give equal ones."""
        ...


class TextWriter:
    """Asks a causal language model; loads it for the first text that is not kept yet.

    With a chat template its tokenizer wraps the question in it. What it answers up to the end of
    the first line is the text. On another device last bits may give another text.

    Args:
        settings: of the recipe.
        base: where a relative folder starts.

    Raises:
        InputError: no such folder, or a Hub id that was not downloaded.
    """

    def __init__(self, settings: WriterSettings, base: Path) -> None:
        self.settings, self.folder = settings, find_folder(settings, base)
        self._digest = compute_weights_digest(self.folder)
        self._reading = _digest_reading(self.folder)
        self._loaded: Any = None
        self._known: dict[str, str] = {}
        place = os.environ.get(CACHE) or str(Path("~/.cache/factory").expanduser())
        self._store = FileStore(str(Path(place).absolute() / "captions"))

    def describe(self) -> dict[str, Any]:
        """Returns model, revision, digests of its files, and how it is asked."""
        settings = self.settings
        return {
            "model": Path(settings.model).name if self._is_local else settings.model,
            "revision": name_revision(self.folder, self._digest),
            "weights_sha256": self._digest,
            "reading_sha256": self._reading,
            "template": settings.template,
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
        }

    def write(self, caption: str, seed: int) -> str:
        """Returns its words for a caption; `seed` counts where a temperature is set.

        Raises:
            InputError: the model cannot be loaded, or has no place for question and answer.
        """
        chance = 0 if self.settings.temperature is None else seed
        name = f"{compute_digest('written', [self.describe(), caption, chance])}.txt"
        if name not in self._known:
            self._known[name] = self._read(name) or self._keep(name, self._ask(caption, chance))
        return self._known[name]

    @property
    def _is_local(self) -> bool:
        return self.settings.revision is None

    def _read(self, name: str) -> str | None:
        if not self._store.exists(name):
            return None
        head, _, text = self._store.read(name).partition(b"\n")
        return text.decode() if hash_bytes(text).encode() == head else None

    def _keep(self, name: str, text: str) -> str:
        data = text.encode()
        self._store.write(name, hash_bytes(data).encode() + b"\n" + data)
        return text

    def _load(self) -> Any:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            given = {"local_files_only": True}
            try:
                with listen_to_libraries():
                    tokenizer = AutoTokenizer.from_pretrained(self.folder, **given)
                    model = AutoModelForCausalLM.from_pretrained(
                        self.folder, use_safetensors=True, dtype=torch.float32, **given
                    )
            except (OSError, ValueError, KeyError) as error:
                raise InputError(
                    f"writer {self.settings.model}: cannot be loaded: {error}"
                ) from error
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._loaded = tokenizer, model.to(device).eval()
        return self._loaded

    def _check_length(self, asked: int, config: Any) -> None:
        most = getattr(config, "max_position_embeddings", None)
        if most is not None and asked + self.settings.max_new_tokens > most:
            raise InputError(
                f"writer {self.settings.model}: has {most} places, and a question of {asked} "
                f"tokens with an answer of {self.settings.max_new_tokens} needs more: lower "
                "max_new_tokens, or shorten template"
            )

    def _ask(self, caption: str, seed: int) -> str:
        import torch

        tokenizer, model = self._load()
        question = self.settings.template.format(caption=caption)
        if tokenizer.chat_template:
            turns = [{"role": "user", "content": question}]
            question = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        own = {"add_special_tokens": not tokenizer.chat_template}  # a chat template has them
        tokens = tokenizer(question, return_tensors="pt", **own).to(model.device)
        self._check_length(tokens["input_ids"].shape[1], model.config)
        heat = self.settings.temperature
        how = {"do_sample": False} if heat is None else {"do_sample": True, "temperature": heat}
        end = tokenizer.pad_token_id
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            made = model.generate(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                max_new_tokens=self.settings.max_new_tokens,
                pad_token_id=tokenizer.eos_token_id if end is None else end,
                **how,
            )
        said = tokenizer.decode(made[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
        first = next(iter(said.strip().splitlines()), "")
        return first.strip().strip("\"'").strip()


def _digest_reading(folder: Path) -> str:
    files = sorted({file for pattern in READING for file in folder.glob(pattern)})
    return compute_digest("reading", [[file.name, hash_file(file)] for file in files])


def find_folder(settings: WriterSettings, base: Path) -> Path:
    """Returns where a writer's files lie; nothing is fetched.

    Raises:
        InputError: nowhere; says what to do.
    """
    folder = base / Path(settings.model).expanduser()
    if settings.revision is None:
        if not (folder / "config.json").is_file():
            raise InputError(
                f"no folder {str(folder)!r} with a config.json: save a model of transformers "
                "there, or give a Hub id with its revision"
            )
        return folder
    if not is_pinned(settings.revision):
        raise InputError(f"revision: want a full commit of 40 digits, got {settings.revision!r}")
    found = find_cached(settings.model, settings.revision, "config.json")
    if found is None:
        asked = f"{settings.model} --revision {settings.revision}"
        raise InputError(f"{settings.model} is not here: hf download {asked}")
    return found
