"""Data: queries, corpus and qrels; the formats, hubs and generators that they come from."""
