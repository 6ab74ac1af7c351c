"""The transformer of texts learns what only the order of words tells, and nothing where the text tells nothing."""

import numpy as np

from cogvsr_utils.analysis.text_models import TextTransformer


def test_it_reads_the_order_of_words_which_no_bag_of_words_knows():
    rng = np.random.default_rng(0)
    fill = ["red", "blue", "green", "pink"]
    texts, labels = [], []
    for number in range(400):
        words = list(rng.choice(fill, 6))
        words[2], words[4] = ("key", "lock") if number % 2 else ("lock", "key")
        texts.append(" ".join(words))
        labels.append("first" if number % 2 else "second")
    model = TextTransformer(epochs=15).fit(texts[:300], labels[:300])
    assert (model.predict(texts[300:]) == labels[300:]).mean() > 0.95


def test_it_knows_nothing_where_labels_are_random():
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(list("abcdefgh"), 8)) for _ in range(300)]
    labels = rng.choice(["one", "two"], 300)
    model = TextTransformer(epochs=3).fit(texts[:200], labels[:200])
    assert abs((model.predict(texts[200:]) == labels[200:]).mean() - 0.5) < 0.2


def test_longer_texts_and_new_words_than_those_of_training_are_read():
    model = TextTransformer(epochs=1).fit(["a b", "b a"] * 10, ["x", "y"] * 10)
    assert model.predict(["a new word " * 50]).shape == (1,)


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_state():
    import torch

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    texts, labels = ["a b c", "c b a", "b c a"] * 5, ["x", "y", "z"] * 5
    one, other = (TextTransformer(epochs=2).fit(texts, labels).network_.out.weight for _ in range(2))
    assert torch.equal(one, other)
    assert torch.rand(1) == expected
