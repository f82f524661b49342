"""What the benches share that measure Oneport beside other servers: builds, processes, the command line."""
