"""Sessions for as long as they take, on real time and real sockets: `make soak`."""
