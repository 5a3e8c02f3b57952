"""From event logs to an interest bundle: data, encoder, interest model, training and evaluation."""
