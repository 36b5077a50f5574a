"""How fast and how fair the pool is, beside others: `python -m benchmarks` prints the tables and draws the plots.

Contenders are compared within a round only: each round runs all of them for a moment, in random order, and what is
reported is the median of the rounds' ratios with their quartiles. So a busy machine widens the spread and favours
nobody. `python -m benchmarks.strategies` shows four ways to share connections, one of them wrong.
Nothing here passes or fails by a time.
"""
