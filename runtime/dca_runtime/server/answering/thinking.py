"""Takes thoughts out of an answer: what a model writes between <think> and </think>."""

BEGIN, END = "<think>", "</think>"


def thinks(template: str | None) -> bool:
    """Whether a model of that chat template writes thoughts."""
    return template is not None and (BEGIN in template or END in template)


class ThoughtReader:
    """Divides an answer that comes piece by piece into thoughts and what is said."""

    def __init__(self, open_already: bool) -> None:
        """open_already: the prompt ended with the beginning of a thought."""
        self._state = "thought" if open_already else "start"
        self._held = ""
        self._fresh = True  # nothing of this part was given yet: white space around the marks is dropped

    @property
    def inside(self) -> bool:
        """Whether what comes next belongs to a thought, as far as is known."""
        return self._state == "thought"

    def push(self, piece: str) -> tuple[str, str]:
        """Takes more; what is certain now, as (thought, said)."""
        self._held += piece
        thought = said = ""
        if self._state == "start":
            beginning = self._held.lstrip()
            if beginning.startswith(BEGIN):
                self._held = beginning[len(BEGIN) :]
                self._state = "thought"
            elif not BEGIN.startswith(beginning):
                self._state, self._fresh = "said", False
        if self._state == "thought":
            at = self._held.find(END)
            if at >= 0:
                thought = self._trimmed(self._held[:at].rstrip())
                self._held = self._held[at + len(END) :]
                self._state, self._fresh = "said", True
            else:
                cut = len(self._held) - _overlap(self._held)
                cut = len(self._held[:cut].rstrip())
                thought = self._trimmed(self._held[:cut])
                self._held = self._held[cut:]
        if self._state == "said":
            said = self._trimmed(self._held)
            self._held = ""
        return thought, said

    def flush(self) -> tuple[str, str]:
        """What was held back, once no more comes."""
        held, self._held = self._held, ""
        return (held, "") if self._state == "thought" else ("", held)

    def _trimmed(self, text: str) -> str:
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return text


def _overlap(text: str) -> int:
    return next((n for n in range(min(len(text), len(END) - 1), 0, -1) if text.endswith(END[:n])), 0)
