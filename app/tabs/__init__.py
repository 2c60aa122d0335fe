"""One file a tab: what it shows, as escaped HTML."""
