"""Scores, ranking and pooling, in the shapes of vLLM, Jina and Cohere."""
