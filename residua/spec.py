"""The former name of `residua.config`."""

raise ImportError("residua.spec is called residua.config now: import from there")
