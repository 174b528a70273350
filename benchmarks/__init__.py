"""Benchmarks: what the hook's start, the import and the middleware cost, each against something that does less.

`python -m benchmarks` runs them all. Every figure is a ratio of two measurements of one run, taken in turns: absolute
times say more about the machine and its neighbours than about the code.
"""
