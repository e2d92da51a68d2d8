"""OpenAI's Realtime API over WebSocket, for text."""
