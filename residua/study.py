"""The former name of `residua.studies` and `residua.analysis`."""

raise ImportError(
    "residua.study is called residua.studies now, and its signals and lesions are in "
    "residua.analysis: import from there"
)
