"""One run: options, server, generator, records, health of the client, accounts, search for the capacity."""
