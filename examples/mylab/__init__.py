"""A package outside of segrun, as a laboratory has one: a loss and a model, with their settings in ``conf/``."""
