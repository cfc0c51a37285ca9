"""Training a recipe: one thread, every participant, asynchrony in simulated time.

`schedule` decides whose turn it is, `learner` is one participant, `runner` lets them
take their turns, and `launch` ties a run to its directory on disk. `state` is what
survives an interruption.
"""

__all__: list[str] = []
