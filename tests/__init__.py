"""The tests, in folders by what they protect: rules, contract, integration, acceptance."""
