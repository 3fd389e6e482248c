"""`generate()` on what KerasHub's users have: a real `tf.data.Dataset`, tensors, numpy arrays; the results are KerasHub's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kexport import runtime
from kexport.converter.conversion import convert

pytestmark = pytest.mark.slow
TEXTS = ["What's the time?", "a", "In 1984", "größe", "the quick brown fox"]
LENGTH = 24


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small Gemma of KerasHub's and its artifact, both greedy. Its tokenizer takes bytes, so KerasHub answers for datasets, too."""
    from tests.converter import tiny_models

    task = tiny_models.gemma()
    directory: Path = tmp_path_factory.mktemp("artifact") / "OUT"
    convert(task, output=directory, max_length=64)
    task.compile(sampler="greedy")
    with runtime.load(directory) as model:
        model.compile(sampler="greedy")
        yield task, model


def test_datasets_and_tensors_of_text(both: Any) -> None:
    """Batched and as one tensor: KerasHub's texts. Unbatched elements, which KerasHub refuses, are prompts of their own."""
    import tensorflow as tf

    task, model = both
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS)
    expected = task.generate(dataset.batch(2), max_length=LENGTH)
    assert model.generate(dataset.batch(2), max_length=LENGTH) == expected
    assert model.generate(dataset, max_length=LENGTH) == expected
    assert model.generate(dataset.batch(2).as_numpy_iterator(), max_length=LENGTH) == expected
    assert model.generate(tf.constant(TEXTS), max_length=LENGTH) == task.generate(tf.constant(TEXTS), max_length=LENGTH) == expected
    assert model.generate(np.array(TEXTS), max_length=LENGTH) == expected
    assert model.generate(tf.constant(TEXTS[0]), max_length=LENGTH) == expected[0]


def test_datasets_of_ids(both: Any) -> None:
    """Dicts of ids: the same keys, types and values, joined on the first axis."""
    import tensorflow as tf

    task, model = both
    ids = {key: np.asarray(value) for key, value in task.preprocessor.generate_preprocess(TEXTS, sequence_length=LENGTH).items()}
    dataset = tf.data.Dataset.from_tensor_slices(ids).batch(2)
    preprocessors = task.preprocessor, model.preprocessor
    try:
        task.preprocessor = model.preprocessor = None
        for stop in (None, (1, 7)):
            expected, got = task.generate(dataset, stop_token_ids=stop), model.generate(dataset, stop_token_ids=stop)
            assert sorted(got) == sorted(expected)
            for key, values in expected.items():
                np.testing.assert_array_equal(got[key], values)
                assert got[key].dtype == values.dtype
    finally:
        task.preprocessor, model.preprocessor = preprocessors
