"""The exported file: metadata, parity with the trained network, variants. Nothing is replaced before it has passed."""
