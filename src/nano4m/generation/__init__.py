"""Generation, ids to ids: sampling, guidance, schedules, decoding orders, likelihoods."""
