"""The fleet as a person sees it: the fleet file, the command line, local start."""
