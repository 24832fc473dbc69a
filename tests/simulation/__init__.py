"""The whole trade workflow under injected faults, on virtual time: a seed is a story, and tells itself again exactly.

python -m tests.simulation                          every scenario, 100 seeds each
python -m tests.simulation errors --runs 10000      more of one
python -m tests.simulation errors --seed 123        one seed, with its timeline
"""
