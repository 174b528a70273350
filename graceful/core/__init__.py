"""The pure core: phases, budget, in-flight, cleanup, report.

Nothing here does I/O, starts a thread, sleeps or reads a clock; time is always an argument. That is what lets the
tests run a whole leave in virtual time.
"""
