"""The contract: card, bundle, and the one preprocessing. Imports only `base`."""
