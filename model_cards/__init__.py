"""Cards rendered from measured files, and the way to the Hub."""
