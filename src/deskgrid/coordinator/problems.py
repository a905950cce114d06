"""How the service says no: a status, a stable code, a sentence with what to do."""


class Refusal(Exception):
    """A request is refused.

    status: of HTTP. code: stable. sentence: for a person. guess: it counts as a failed authentication.
    """

    def __init__(self, status: int, code: str, sentence: str, guess: bool = False) -> None:
        super().__init__(sentence)
        self.status, self.code, self.sentence, self.guess = status, code, sentence, guess
