"""The exported file: metadata, parity with the trained network, staging. Nothing is replaced before it has passed."""
