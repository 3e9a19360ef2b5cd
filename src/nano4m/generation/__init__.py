"""From ids to ids: sampling, guidance, schedules, the order of decoding, likelihoods."""
