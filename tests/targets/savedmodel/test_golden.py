"""The golden models of all seed families: KerasHub's tokens from the engine and from the loop inside the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kexport.runtime.engines.base import open_engine

from tests.seed_models import MAX_LENGTH, MODELS, padded

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", MODELS)
def test_golden_tokens(name: str, tmp_path: Path) -> None:
    """A ragged batch, rows at positions of their own, prefilled in two pieces; and the same by `generate`, with and without stop ids."""
    from tests.targets.savedmodel.artifacts import golden_artifact, prompts_of, sampling, tf

    golden, manifest = golden_artifact(name, tmp_path)
    want = np.array(golden.tokens)
    rows = [list(prompt) for prompt in golden.model.prompts]
    with open_engine(tmp_path, manifest) as engine:
        cache = engine.new_cache(len(rows), MAX_LENGTH)
        if "encode" in golden.graphs:
            engine.encode(*padded(golden.model.encoder_prompts, max(map(len, golden.model.encoder_prompts))), cache)
        ids, mask = padded(rows, max(map(len, rows)))
        counts = mask.sum(1)
        logits = engine.extend(cache, ids[:, :4], np.minimum(counts, 4))
        rest = np.maximum(counts - 4, 0)
        later = engine.extend(cache, ids[:, 4:], rest)
        logits[rest > 0] = later[rest > 0]
        while (growing := np.array([len(row) < MAX_LENGTH for row in rows])).any():
            tokens = logits.argmax(-1)
            for row, token, grows in zip(rows, tokens, growing, strict=True):
                row.extend([int(token)] if grows else [])
            still = np.array([len(row) < MAX_LENGTH for row in rows])
            if still.any():
                logits = engine.extend(cache, tokens[:, None], still.astype(np.int64))
    assert (np.array(rows) == want).all()

    model = tf.saved_model.load(str(tmp_path))
    result = model.signatures["generate"](**prompts_of(golden))
    assert (result["token_ids"].numpy()[:, :MAX_LENGTH] == want).all()
    stopped = model.signatures["generate"](
        **prompts_of(golden) | {"stop_token_ids": sampling(stop=golden.stop_token_ids)["stop_token_ids"]}
    )
    for row, length, tokens, keep in zip(
        stopped["token_ids"].numpy(), stopped["lengths"].numpy(), golden.stop_tokens, golden.stop_masks, strict=True
    ):
        kept = [token for token, flag in zip(tokens, keep, strict=True) if flag]
        assert row[: min(length, MAX_LENGTH)].tolist() == kept
        assert not row[length:].any()
