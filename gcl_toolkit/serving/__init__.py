"""Serving: vector stores, exports, hubs and hosted demos."""
