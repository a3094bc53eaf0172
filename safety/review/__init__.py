"""People look at texts: the queue, who may do what, how far reviewers agree. `safety.review.queue` is the way in."""
