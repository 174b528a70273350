"""What `python -m graceful doctor` looks at: facts are gathered by small functions, and judged by pure ones."""
