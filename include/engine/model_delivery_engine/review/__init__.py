"""Human review: which answers to have reviewed, and what to make of the reviewers' answers."""
