"""The former name of `residua.studies` and `residua.analysis`."""

raise ImportError(
    "residua.study is called residua.studies now, and residua.analysis for signals and lesions: "
    "import from there"
)
