"""From an integer network to cores: what synapses cost, how they are cut, where they go."""
