"""The embedded world of drawn shapes, in which the best trade-off between reward and diversity is known exactly."""
