"""What the pools of a process share: threads, forks, sockets, the scheduler. It knows no pool."""
