"""Training the shield's toxicity classifier."""
