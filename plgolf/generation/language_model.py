"""A model and its tokenizer, as they come out of an artifact."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from plgolf.artifact import Artifact, read_artifact
from plgolf.data.tokenizer import TextStream, Tokenizer, load_tokenizer, tokenizer_of
from plgolf.data.tokenizer.files import FILE_NAMES
from plgolf.errors import UserError
from plgolf.evaluate.documents import TextScore, score_documents, utf8
from plgolf.generation.decoding import generate_ids
from plgolf.generation.sampling import Sampling, draw, probabilities
from plgolf.model import GPT, GPTConfig
from plgolf.model.weights import gpt_with_weights

_MAX_SEED = 2**63
_MAX_SEQ_LEN = 2**20
"""Keys and values of so many tokens take some GB; an artifact may say any number."""


class LanguageModel:
    """Writes text and scores it.

    Args:
        gpt: the model, which stays as it is.
        tokenizer: the one that it was trained with; without one there is only ``gpt``.
        seq_len: tokens of the sequences that it was trained on: it never sees more at once.

    Raises:
        UserError: the tokenizer has another vocabulary than the model, or ``seq_len`` is out of bounds.
    """

    def __init__(self, gpt: GPT, tokenizer: Tokenizer | None = None, seq_len: int | None = None) -> None:
        if tokenizer is not None and tokenizer.vocab_size != gpt.config.vocab_size:
            raise UserError(
                f"the tokenizer must have the {gpt.config.vocab_size} ids of the model, "
                f"got {tokenizer.vocab_size}"
            )
        if seq_len is not None and not 1 <= seq_len <= _MAX_SEQ_LEN:
            raise UserError(f"seq_len must be from 1 to {_MAX_SEQ_LEN}, got {seq_len}")
        self.gpt, self.tokenizer, self.seq_len = gpt, tokenizer, seq_len

    def generate(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 256,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """Continues a text until the next document would begin.

        Args:
            prompt: what the document begins with; it may be empty.
            max_tokens: the most tokens to write.
            temperature: see ``Sampling``; 0 always takes the likeliest token.
            top_k: see ``Sampling``.
            top_p: see ``Sampling``.
            seed: of the random numbers. The same seed, prompt, settings, artifact, PyTorch, kind of
                processor and number of threads give the same text.

        Returns:
            What comes after the prompt.

        Raises:
            UserError: a setting is out of range, or no tokenizer or ``seq_len`` is known.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
        return "".join(self.stream(prompt, sampling, max_tokens=max_tokens, seed=seed))

    def stream(
        self,
        prompt: str = "",
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        *,
        max_tokens: int = 256,
        seed: int = 0,
    ) -> Iterator[str]:
        """Does as ``generate`` and yields each piece of the text as it comes; every character is whole."""
        tokenizer, seq_len = self._ready()
        if max_tokens < 1:
            raise UserError(f"max_tokens must be at least 1, got {max_tokens}")
        if not 0 <= seed < _MAX_SEED:
            raise UserError(f"seed must be from 0 to {_MAX_SEED - 1}, got {seed}")
        utf8(prompt)
        ids = [tokenizer.bos_id, *tokenizer.encode(prompt).tolist()]
        choose = partial(_choose, sampling=sampling, generator=torch.Generator().manual_seed(seed))
        new = generate_ids(self._fast_gpt, ids, choose, seq_len=seq_len, max_tokens=max_tokens)
        return _texts(tokenizer, ids, new)

    def score(self, text: str | Sequence[str]) -> TextScore:
        """Scores a text, or several documents, as validation does; see ``score_documents``.

        Args:
            text: a document, or several.

        Returns:
            Nats, bytes, bits per byte and tokens.

        Raises:
            UserError: there is no text, or no tokenizer or ``seq_len`` is known.
        """
        tokenizer, seq_len = self._ready()
        return score_documents(
            self.gpt, tokenizer, [text] if isinstance(text, str) else text, seq_len=seq_len
        )

    def _ready(self) -> tuple[Tokenizer, int]:
        if self.tokenizer is None:
            raise UserError(
                "tokenizer must be given: the artifact carries none, and beside it is no "
                f"{' or '.join(FILE_NAMES)}"
            )
        if self.seq_len is None:
            raise UserError("seq_len must be given: the artifact does not say what length it was trained on")
        return self.tokenizer, self.seq_len

    @cached_property
    def _fast_gpt(self) -> GPT:
        """The model in float32, which most processors are fastest in when there is one token at a time.

        Only what is not float32 is copied: the embedding.
        """
        config = replace(self.gpt.config, compute_dtype="float32")
        weights = {name: tensor.float() for name, tensor in self.gpt.state_dict().items()}
        return gpt_with_weights(config, weights).to(self.gpt.embedding.weight.device).eval()


def _choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    return draw(probabilities(logits, sampling), generator)


def _texts(tokenizer: Tokenizer, prompt: Sequence[int], new: Iterator[int]) -> Iterator[str]:
    stream = TextStream(tokenizer)
    for index in prompt:  # A first space may be dropped; one after the prompt must not.
        stream.push(index)
    for index in new:
        if index == tokenizer.bos_id:
            break
        text = stream.push(index)
        if text:
            yield text
    rest = stream.flush()
    if rest:
        yield rest


def load_artifact(
    path: str | Path,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    seq_len: int | None = None,
    config: GPTConfig | None = None,
) -> LanguageModel:
    """Loads a model and its tokenizer; runs no code from the file.

    Args:
        path: an artifact of ours or of the reference program.
        tokenizer: the tokenizer or its file; by default the one that the artifact carries, else the
            ``tokenizer.model`` or ``tokenizer.json`` beside it, if there is one.
        seq_len: the most tokens that the model sees at once; by default what it was trained on, which an
            artifact of the reference does not say.
        config: the architecture of an artifact that carries none; see ``plgolf.artifact.load_gpt``.

    Returns:
        The model, on the CPU.

    Raises:
        UserError: a file cannot be read or is malformed, or the tokenizer is not the model's.
    """
    path = Path(path)
    artifact = read_artifact(path)
    found, place = _find_tokenizer(path, artifact, tokenizer)
    if found is not None and artifact.tokenizer_sha256 not in (None, found.sha256):
        raise UserError(
            f"{place} must be the one that {path} was trained with, sha256 {artifact.tokenizer_sha256}, "
            f"got {found.sha256}"
        )
    seq_len = artifact.seq_len if seq_len is None else seq_len
    try:
        return LanguageModel(artifact.gpt(config), found, seq_len)
    except UserError as error:
        raise UserError(f"{path}: {error}{f' ({place})' if found else ''}") from error


def _find_tokenizer(
    path: Path, artifact: Artifact, given: Tokenizer | str | Path | None
) -> tuple[Tokenizer | None, str]:
    """Returns the tokenizer and what a message calls it."""
    if isinstance(given, Tokenizer):
        return given, "the tokenizer"
    if given is not None:
        return load_tokenizer(Path(given)), str(given)
    if artifact.tokenizer is not None:
        try:
            return tokenizer_of(artifact.tokenizer), f"the tokenizer in {path}"
        except UserError as error:
            raise UserError(f"{path}: its tokenizer {error}") from error
    beside = [path.with_name(name) for name in FILE_NAMES if path.with_name(name).is_file()]
    tokenizers = [(load_tokenizer(file), str(file)) for file in beside]
    tokenizers.sort(key=lambda one: one[0].sha256 != artifact.tokenizer_sha256)
    return tokenizers[0] if tokenizers else (None, "")
