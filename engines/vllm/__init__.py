"""vLLM as an engine: `AsyncLLM`, its renderer, its parsers and its sampling parameters behind the one contract.

`options` and `engine` import no vLLM, so a fleet file can be checked where it is not installed; everything else does.
"""
