"""Ray: the actor that hosts an engine, the channel to it, and the directory of instances."""
