"""The tests that OpenAI's own client comes with, against a simulated fleet: `python -m tests.openai_suite`."""
