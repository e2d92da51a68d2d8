"""Images, recordings and documents in a conversation: out of what the caller wrote, within limits, as plain bytes."""
