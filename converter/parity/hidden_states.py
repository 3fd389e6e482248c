"""The proof of hidden states that an artifact's steps give beside logits: a prompt and two steps of one row, against the original's cached forward."""

from __future__ import annotations

import numpy as np
from kexport.converter.parity.cases import Sizes, build_cases
from kexport.converter.parity.forward import Answer, Arrays
from kexport.converter.parity.oracle import Oracle
from kexport.runtime.contract import names
from kexport.runtime.contract.manifest import Manifest


def ask_hidden_states(oracle: Oracle, manifest: Manifest, sizes: Sizes) -> list[Answer]:
    """The original's hidden states of one row's prompt; nothing where the artifact gives none. The feeds are what `replay_forward` steps through."""
    if not any(spec.name == names.HIDDEN_STATES for signature in manifest.signatures for spec in signature.outputs if signature.name not in names.FORWARD):
        return []
    case = next(case for case in build_cases(sizes) if case.name == "one row")
    rows = np.array(case.prompts, np.int32)
    with_another = np.pad(rows, ((0, 0), (0, 1)), constant_values=oracle.pad)  # the call's last token, which in some families counts as a step of its own
    feeds: Arrays = {names.TOKEN_IDS: rows}
    if case.encoder:
        feeds["encoder_token_ids"], feeds["encoder_padding_mask"] = case.encoder_rows(oracle.pad)
    return [Answer(names.HIDDEN_STATES, feeds, {names.HIDDEN_STATES: oracle.hidden_states(case, with_another)[:, :-1]})]
