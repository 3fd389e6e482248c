"""Cut a text before the first of some stop texts, while it is still coming in pieces.

The first is the one that is complete first: generation could end there. Of two that end together the longer one counts.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes text on until a stop text begins; what might be the beginning of one is held back until that is known.

    `stops`: the stop texts, none empty. `skip`: so many characters at the start (the prompt) are passed on without looking.
    """

    def __init__(self, stops: Sequence[str], skip: int = 0) -> None:
        self._stops = [stop for stop in stops if stop]
        self._skip = skip
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """The text that is certain to stay after this further piece; "" once a stop text was found."""
        if self.found:
            return ""
        passed, piece = piece[: self._skip], piece[self._skip :]
        self._skip -= len(passed)
        self._held += piece
        ends = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if ends:
            self.found = True
            return passed + self._held[: min(ends)[1]]
        keep = self._length_to_hold()
        free = len(self._held) - keep
        passed, self._held = passed + self._held[:free], self._held[free:]
        return passed

    def end(self) -> str:
        """What was held back, when no more text comes."""
        rest = "" if self.found else self._held
        self._held = ""
        return rest

    def _length_to_hold(self) -> int:
        """The longest end of the text that a stop text begins with."""
        longest = max((len(stop) for stop in self._stops), default=0)
        for length in range(min(len(self._held), longest - 1), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
