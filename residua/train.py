"""The former name of `residua.training`."""

raise ImportError("residua.train is called residua.training now: import from there")
