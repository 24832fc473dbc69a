"""How much of a swarm may be missing: the only place where these limits stand.

More than 30 % of the required members missing -> no answer is given; fewer than 50 % of all answered -> level 2
(minimal); fewer than 80 % -> level 1 (degraded); else level 0 (full).
"""

__all__ = ["CRITICAL_PERCENT", "level_of", "too_many_missing"]

# Whole percents and whole members: 0.3 * 10 is not always 3 for a computer.
CRITICAL_PERCENT = 30  # of the required: more missing than this is critical
_DEGRADED_BELOW_PERCENT = 80  # of all
_MINIMAL_BELOW_PERCENT = 50  # of all


def level_of(answered: int, asked: int) -> int:
    """0 full, 1 degraded, 2 minimal. Nobody asked is full: nothing is missing."""
    if 100 * answered < _MINIMAL_BELOW_PERCENT * asked:
        return 2
    return 1 if 100 * answered < _DEGRADED_BELOW_PERCENT * asked else 0


def too_many_missing(required_failed: int, required: int) -> bool:
    """Whether so many of the required members are missing that no answer should be given."""
    return 100 * required_failed > CRITICAL_PERCENT * required
