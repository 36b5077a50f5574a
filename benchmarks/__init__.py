"""Speed and fairness of the pool and of others: `python -m benchmarks` prints the tables and draws the plots.

Contenders are compared within a round only. Each round runs all of them briefly, in random order, and the tables show
the median and quartiles of the rounds' ratios. So a busy machine widens the spread but favours no contender.
`python -m benchmarks.strategies` compares four ways to share connections, one of them wrong. No benchmark fails
because of a time.
"""
