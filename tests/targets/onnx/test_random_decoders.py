"""Decoders that nobody thought of: every combination of features gives the interpreter's logits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.targets.onnx.toys import EXPERT_FORMS, Toy, compare, decoder, write

BOUND = 1e-5
HEAD_SIZES = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 80)
PROMPTS = ((7, 3, 5), (1,), (4, 4), (9, 1))


@st.composite
def toys(draw: Any) -> Toy:
    """Any toy decoder that the graph allows."""
    kv_heads, head_dim = draw(st.integers(1, 4)), draw(st.sampled_from(HEAD_SIZES))
    rope, causal = draw(st.booleans()), draw(st.integers(0, 9)) > 0
    return Toy(
        layers=draw(st.sampled_from((1, 3))),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=draw(st.sampled_from((0, 0, 8, head_dim + 4))),
        rope=rope,
        rope_half=draw(st.integers(0, head_dim // 2)) if rope else 0,
        rope_factor=draw(st.sampled_from((1.0, 1.3))),
        learned_positions=draw(st.booleans()),
        windows=draw(st.sampled_from(((None,), (3,), (1, None)))),
        softcap=draw(st.sampled_from((None, 2.0))),
        alibi=draw(st.booleans()),
        mask=draw(st.booleans()) or not causal,
        sinks=draw(st.booleans()),
        causal=causal,
        packed=draw(st.booleans()),
        bias=draw(st.booleans()),
        norm=draw(st.sampled_from(("rms_norm", "layer_norm"))),
        offset=draw(st.sampled_from((0.0, 1.0))),
        tied=draw(st.booleans()),
        final_softcap=draw(st.sampled_from((None, 20.0))),
        activation=draw(st.sampled_from(("silu", "gelu"))),
        plain_cache=draw(st.integers(0, 5)) == 0,
        experts=draw(st.sampled_from((0, 0, 5))),
        taken=draw(st.integers(1, 5)),
        experts_form=draw(st.sampled_from(sorted(EXPERT_FORMS))),
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(toy=toys(), prompts=st.sampled_from(PROMPTS))
def test_any_decoder_gives_the_interpreters_logits(toy: Toy, prompts: tuple[int, ...]) -> None:
    """Padding, rotation, masks, packing and head grouping may be combined freely."""
    with tempfile.TemporaryDirectory() as directory:
        files = write(Path(directory), decoder(toy))
        assert compare(files, prompts, steps=3).difference < BOUND
