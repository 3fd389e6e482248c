"""The tensor names of cache slots that users of Hugging Face's exporters expect; see CONTRACTS.

    past_key_values.<i>.key|value -> present.<i>.key|value
    with an encoder: past_key_values.<i>.decoder|encoder.key|value -> present.<i>.decoder|encoder.key|value
    states: past_conv.<i> -> present_conv.<i>, past_recurrent.<i> -> present_recurrent.<i>
"""

from __future__ import annotations

from collections.abc import Mapping

from kexport.graphs.ir import Slot, State

STATE_STEMS = {"convolution": "conv", "recurrent": "recurrent"}
PARTS = ("key", "value")


class SlotNames:
    """The tensor names of every slot and state, from the graph that has them: the i-th of its kind has the number i."""

    def __init__(self, slots: Mapping[str, Slot], states: Mapping[str, State] | None = None) -> None:
        kinds = [slot.kind for slot in slots.values()]
        self._two_kinds = len(set(kinds)) > 1
        self._places: dict[str, tuple[int, str]] = {}
        for index, (name, slot) in enumerate(slots.items()):
            self._places[name] = (kinds[:index].count(slot.kind), "encoder" if slot.kind == "cross" else "decoder")
        counts = dict.fromkeys(STATE_STEMS, 0)
        self._states: dict[str, tuple[str, int]] = {}
        for name, state in (states or {}).items():
            self._states[name] = (STATE_STEMS[state.kind], counts[state.kind])
            counts[state.kind] += 1

    def past(self, slot: str) -> tuple[str, str]:
        """Input names, key and value."""
        return self._pair("past_key_values", slot)

    def present(self, slot: str) -> tuple[str, str]:
        """Output names, key and value."""
        return self._pair("present", slot)

    def past_state(self, state: str) -> str:
        """A state's input name."""
        stem, index = self._states[state]
        return f"past_{stem}.{index}"

    def present_state(self, state: str) -> str:
        """A state's output name."""
        stem, index = self._states[state]
        return f"present_{stem}.{index}"

    def encoder_output(self, name: str) -> str | None:
        """The present name of graph output `<slot>.key` or `<slot>.value`; None where it is no slot's."""
        slot, _, part = name.rpartition(".")
        return self.present(slot)[PARTS.index(part)] if slot in self._places and part in PARTS else None

    def _pair(self, stem: str, slot: str) -> tuple[str, str]:
        index, side = self._places[slot]
        middle = f"{side}." if self._two_kinds else ""
        key, value = (f"{stem}.{index}.{middle}{part}" for part in PARTS)
        return key, value


class SameNames(SlotNames):
    """What goes in comes out under the same name: for targets that name caches themselves, and states as here."""

    def present(self, slot: str) -> tuple[str, str]:
        """Output names: those of the inputs."""
        return self.past(slot)

    def past_state(self, state: str) -> str:
        """A state's input name."""
        stem, index = self._states[state]
        return f"{stem}_state_{index}"

    def present_state(self, state: str) -> str:
        """Its output name: the same."""
        return self.past_state(state)
