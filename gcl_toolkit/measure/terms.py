"""What splits, metrics and the words of a comparison mean, in a sentence each. No torch."""

SPLITS = {
    "in_domain": "Training queries on training products: the very pairs that were trained on.",
    "novel_query": "Queries never seen in training, on training products.",
    "novel_document": "Training queries, on products never seen in training.",
    "zero_shot": "Queries and products both never seen in training.",
}
METRICS = {
    "NDCG@10": "The scores of the first ten products, discounted by the logarithm of the rank, over the best possible.",
    "ERR": "Expected reciprocal rank on the raw scores, as GCL's own evaluation has it: with scores up to 100 it asks "
    "little more than how soon the single best product comes.",
    "ERR(4)": "Expected reciprocal rank with each query's scores rescaled to 0..4, the usual range.",
    "RBP(0.9)": "Rank-biased precision: the expected score per product for a reader who goes on with probability 0.9.",
    "AP": "Average precision: the share of listed products at the rank of each listed product, averaged.",
    "RR": "Reciprocal rank: one over the rank of the first listed product.",
}
GLOSSARY = {
    **SPLITS,
    **{split.replace("_", sign): about for split, about in SPLITS.items() for sign in "- "},
    **METRICS,
    "baseline": "The system that the others are compared with: B.",
    "control": "A method that lacks one thing of another one, so that their difference shows what this thing is worth.",
    "score": "How relevant a product is for a query, from 0 (irrelevant) up.",
    "DCG": "The scores of the first ten products, each divided by log2(rank + 1), summed.",
    "ideal order": "The query's products by their scores, the highest first: its NDCG is 1.",
    "unjudged": "A product that nobody graded for this query. Metrics count it as irrelevant, though it may not be.",
    "unjudged@10": "How many of the first ten products nobody graded for the query, on average.",
    "bounds": "The difference if all unjudged products of A were irrelevant and all of B perfect, and the reverse.",
    "condensed list": "The metric after the unjudged products are removed from the ranking.",
    "bpref": "How many judged irrelevant products are ranked above judged relevant ones; unjudged ones are ignored.",
    "interval": "The range that holds the true difference over all such queries in 95 of 100 such comparisons.",
    "p": "How often random signs of the differences give a mean as large as this one; below .05 is called significant.",
    "Holm": "A correction for many comparisons: any error at all among them has a probability of at most 5 %.",
    "corrected": "A language model graded all queries and people some: its grades make the interval narrow, people's "
    "grades correct its mean (prediction-powered inference).",
    "slice": "A part of the queries, such as those with few judged products or of one category.",
    "score sum": "Queries by the sum of their scores: head, the fewest with half of all scores; tail, the others.",
    "other": "Categories of fewer than 10 queries, merged. If that leaves one slice, there is none by category.",
    "division": "Queries are divided: dev to choose settings on, test to report.",
    "dev": "Queries to choose settings on.",
    "test": "Queries to report; no setting was chosen on them.",
    "cosine": "The cosine of the angle between the vectors of query and product: 1 for the same direction.",
    "BM25": "A ranking by the words that query and product have in common; no training.",
    "zero-shot": SPLITS["zero_shot"],
}
"""Term -> its meaning, for the explanations in the app."""
