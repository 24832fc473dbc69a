"""A simulated exchange that speaks the protocol of Binance spot: `python -m graph.exchange --port 9010 --seed 7`.

Everything in here but `server`, `journal` and `__main__` is pure: no socket, no file, no clock, no randomness of its
own. The core is told what time it is and does what is due, so that it runs in real time behind sockets, and on virtual
time inside of a simulation. Top down:

    __main__, server     the process: sockets, the command line
    memory, driver       the same core for whoever lives in the same event loop
    gateway              connections and requests, and what goes wrong with them
    connection, calls    one WebSocket connection; the methods of REST and WebSocket API
    venue                all symbols and accounts
    engine, crowd        price-time matching; everybody else in the market
    book, accounts, candles, orders, symbols, fixed
"""
