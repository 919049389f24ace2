"""What the corpora of tests/cases make of other proxies; see framing_peers.py."""
