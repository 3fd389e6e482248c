"""GPT-NeoX: padding and the end of a text are the same id, 0, and stop ids are looked for in content that is not generated yet: nothing is generated.

    python docs/upstream/gpt_neo_x_stop_is_pad.py
"""

from __future__ import annotations

import numpy as np
from small import rows, task

SIZES = {"vocabulary_size": 64, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 48, "rotary_percentage": 0.5}
model = task("GPTNeoX", {**SIZES, "max_sequence_length": 32})
model.compile(sampler="greedy")
found = np.asarray(model.generate(rows([5, 9, 11, 3]), stop_token_ids=[0])["token_ids"])[0].tolist()
print("with the stop id 0:", found)
print("WRONG: no token is generated" if not any(found[4:]) else "right: tokens are generated")
