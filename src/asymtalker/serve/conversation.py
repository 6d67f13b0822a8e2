"""Who speaks when: what a person says into a microphone is what the head says, or what it answers; a person who speaks
over it is let speak."""

import threading
from collections.abc import Callable, Iterable

import numpy as np
import webrtcvad

from asymtalker.serve.flow import pcm16
from asymtalker.serve.session import Session
from asymtalker.timeline import SAMPLE_RATE

Answer = Callable[[np.ndarray], Iterable[np.ndarray]]
"""What is said to something said, both samples ``(n,)`` float32 at 16 kHz; an answer may come piece by piece."""
PIECE = SAMPLE_RATE // 50
"""20 ms, looked at together."""
BEGINS = 5
"""Of the last 8 pieces, those with a voice from which on somebody speaks: a knock is no word."""
WINDOW = 8
ENDS = 30
"""Pieces without a voice, 0.6 s, after which somebody has finished."""
LONGEST = 30 * SAMPLE_RATE
"""Samples of one utterance."""


class VoiceActivity:
    """Tells when somebody begins and ends to speak (WebRTC's detector).

    Args:
        strictness: 0 to 3, how sure it has to be.
    """

    def __init__(self, strictness: int = 2):
        self._detector = webrtcvad.Vad(strictness)
        self._last = [False] * WINDOW
        self._silent = 0
        self._rest = np.zeros(0, np.float32)
        self.speaking = False

    def hear(self, samples: np.ndarray) -> list[tuple[np.ndarray, bool]]:
        """Pieces ``(320,)`` of what was heard, and whether somebody speaks there."""
        self._rest = np.concatenate([self._rest, samples])
        pieces = []
        while len(self._rest) >= PIECE:
            piece, self._rest = self._rest[:PIECE], self._rest[PIECE:]
            voice = self._detector.is_speech(pcm16(piece), SAMPLE_RATE)
            self._last = [*self._last[1:], voice]
            self._silent = 0 if voice else self._silent + 1
            if not self.speaking and sum(self._last) >= BEGINS:
                self.speaking = True
            elif self.speaking and self._silent >= ENDS:
                self.speaking, self._last = False, [False] * WINDOW
            pieces.append((piece, self.speaking))
        return pieces


class Conversation:
    """A person before a session.

    Args:
        session: the head.
        answer: what it answers to what a person has said; ``None``: it says what is said, as it is said.
    """

    def __init__(self, session: Session, answer: Answer | None = None):
        self.session, self.answer = session, answer
        self._activity = VoiceActivity()
        self._before: list[np.ndarray] = []
        self._said: list[np.ndarray] = []
        self._turn = 0
        self._saying = threading.Lock()
        self.interruptions = 0

    def hear(self, samples: np.ndarray) -> None:
        """What the microphone gives, float32 at 16 kHz."""
        if self.answer is None:
            self.session.push(samples)
            return
        for piece, speaks in self._activity.hear(samples):
            if speaks:
                if not self._said:
                    self.interrupt()
                    self._said = self._before
                self._said.append(piece)
            elif self._said:
                self._reply()
            self._before = [*self._before, piece][-WINDOW - 2 :]
            if len(self._said) * PIECE > LONGEST:
                self._reply()

    def interrupt(self) -> None:
        """Let the head fall silent, whatever it is saying or about to say."""
        with self._saying:
            self._turn += 1
            if self.session.speaking:
                self.interruptions += 1
                self.session.interrupt()

    def _reply(self) -> None:
        said, self._said = np.concatenate(self._said), []
        with self._saying:
            self._turn += 1
            turn = self._turn
        threading.Thread(target=self._say, args=(said, turn), name="answer", daemon=True).start()

    def _say(self, said: np.ndarray, turn: int) -> None:
        assert self.answer is not None
        for samples in self.answer(said):
            with self._saying:
                if turn != self._turn or self.session.over:
                    return
                self.session.push(samples)
