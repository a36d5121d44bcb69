"""What ``vedette doctor`` finds: facts are gathered, most of them by child processes, and judged by pure functions."""
