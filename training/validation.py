"""Scores during training, by the evaluation's own scorer."""


class Validation:
    pass
