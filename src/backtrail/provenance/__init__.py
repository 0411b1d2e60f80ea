"""Where a result comes from: records of what ran, and the questions that they answer."""
