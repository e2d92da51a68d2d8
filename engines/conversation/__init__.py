"""Conversations: one call with a stream of input frames, answered by a stream of events, turn after turn."""
