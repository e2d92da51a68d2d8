"""The channel: one long call per router and instance, requests up and frames down."""
