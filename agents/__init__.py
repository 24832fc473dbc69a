"""Who decides. Pure: no network, no event loop, no graph, no SQL; time and randomness come in as arguments.

The layers, top to bottom (nothing imports upwards):

    research, strategist, quality, execution    decide
    policy, risk, features                      what decisions are made of
    domain, errors, clock                       the words all rooms share
"""
