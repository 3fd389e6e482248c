"""GPT-NeoX: in a decode step the query is rotated at position 0, whatever its position: `rotary_embedding_layer(query_rot)` gets no start index.

    python docs/upstream/gpt_neo_x_query_position.py
"""

from __future__ import annotations

from small import compare, rows, task

SIZES = {"vocabulary_size": 64, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "intermediate_dim": 48, "rotary_percentage": 0.5}

compare(task("GPTNeoX", {**SIZES, "max_sequence_length": 32}), rows([5, 9, 11, 3]))
