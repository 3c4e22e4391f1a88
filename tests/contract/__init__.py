"""The promises made to others: events, requests, and the protocols of outside services."""
